"""Text that is to be filled in between two others, by the markers a model was taught."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from mlxspec.errors import BadRequestError


class Markers(NamedTuple):
    """Stand before the text in front, before the text behind, and where the model begins.

    Without `middle` the text behind comes first.
    """

    prefix: str
    suffix: str
    middle: str | None = None


KNOWN: Final = (
    Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    Markers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    Markers("▁<PRE>", "▁<SUF>", "▁<MID>"),
    Markers("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>"),
    Markers("[PREFIX]", "[SUFFIX]"),
)

ENDS: Final = ("<|fim_pad|>", "<fim_pad>", "<|file_sep|>", "<file_sep>", "<|repo_name|>", "▁<EOT>")
"""What models write when they have filled in and would go on with another text."""


class Infill:
    """Makes prompts of one model. `token_of` gives the id of a marker, or None.

    encode: ids of a text that stands inside another; opening: what the model expects first.
    """

    def __init__(
        self,
        token_of: Callable[[str], int | None],
        encode: Callable[[str], list[int]],
        opening: list[int],
    ) -> None:
        known = (markers for markers in KNOWN if None not in map(token_of, _given(markers)))
        self._markers = next(known, None)
        self._encode = encode
        self._opening = opening
        marks = _given(self._markers) if self._markers else ()
        self._ids: Mapping[str, int] = {mark: token_of(mark) or 0 for mark in marks}
        ends = [token_of(mark) for mark in (*ENDS, *marks)]
        self.stop_tokens: list[int] = [token for token in ends if token is not None]

    def __bool__(self) -> bool:
        """Whether the model was taught to fill in."""
        return self._markers is not None

    def prompt(self, before: list[int], behind: str) -> list[int]:
        """The prompt for what comes between; BadRequestError if the model knows no markers."""
        markers = self._markers
        if markers is None:
            raise BadRequestError(
                "the model has no tokens for filling in: leave out the suffix, or use a model of "
                "code that has them",
                param="suffix",
            )
        front = [self._ids[markers.prefix], *before]
        back = [self._ids[markers.suffix], *self._encode(behind)]
        if markers.middle is None:
            return [*self._opening, *back, *front]
        return [*self._opening, *front, *back, self._ids[markers.middle]]


def _given(markers: Markers) -> tuple[str, ...]:
    return tuple(mark for mark in markers if mark is not None)
