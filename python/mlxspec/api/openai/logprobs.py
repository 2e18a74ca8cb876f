"""How likely the tokens of an answer were, as chats and as text completions word it."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Self

from msgspec import Struct

from mlxspec.engine.request import Likelihood, PromptToken, TokenLogprobs


class LikelyToken(Struct, frozen=True):
    """One token of a chat and its logprob."""

    token: str
    logprob: float
    bytes: list[int]

    @classmethod
    def of(cls, likelihood: Likelihood) -> Self:
        """A token's text, with a replacement sign for broken characters; its bytes are exact."""
        text = likelihood.text
        return cls(text.decode(errors="replace"), likelihood.logprob, list(text))


class ChosenToken(LikelyToken, frozen=True):
    """A token of a chat's answer, and the likeliest at its place."""

    top_logprobs: list[LikelyToken] = []


class ChatLogprobs(Struct, frozen=True):
    """How likely the tokens of a chat's answer were."""

    content: list[ChosenToken]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprobs]) -> Self:
        """Word the engine's logprobs."""
        return cls([_chosen(token) for token in tokens])


def _chosen(token: TokenLogprobs) -> ChosenToken:
    own = LikelyToken.of(token.chosen)
    top = [LikelyToken.of(likelihood) for likelihood in token.top]
    return ChosenToken(own.token, own.logprob, own.bytes, top)


class TextLogprobs(Struct, frozen=True):
    """How likely the tokens of a text completion were, as columns; null for a prompt's first."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]

    def __add__(self, other: "TextLogprobs") -> "TextLogprobs":
        """One text's behind another's."""
        return TextLogprobs(
            self.tokens + other.tokens,
            self.token_logprobs + other.token_logprobs,
            self.top_logprobs + other.top_logprobs,
            self.text_offset + other.text_offset,
        )

    @classmethod
    def of_prompt(cls, tokens: Sequence[PromptToken], echo: str, num_top: int) -> Self:
        """Word those of a prompt that is echoed as this text, with so many alternatives."""
        return cls(
            tokens=[_text(token) for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[_prompts_own(token, num_top) for token in tokens],
            text_offset=_offsets(tokens, echo),
        )

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprobs], start: int) -> Self:
        """Word the engine's logprobs of a text that begins `start` characters into the choice."""
        return cls(
            tokens=[_text(token.chosen) for token in tokens],
            token_logprobs=[token.chosen.logprob for token in tokens],
            top_logprobs=[_by_text(token) for token in tokens],
            text_offset=[start + token.offset for token in tokens],
        )


def spelled(tokens: Sequence[PromptToken]) -> str:
    """The text of a prompt's tokens, special ones by name."""
    return b"".join(token.text for token in tokens).decode(errors="replace")


class PromptLogprob(Struct, frozen=True):
    """How likely a token was at a place of the prompt; rank 1 is the likeliest."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""vLLM's: for each token of a prompt, by id, itself and the likeliest; null for the first."""


def prompt_logprobs(tokens: Sequence[PromptToken], num_top: int) -> PromptLogprobs:
    """Word those of a prompt, with so many alternatives."""
    return [_by_id(token, num_top) for token in tokens]


def _by_id(token: PromptToken, num_top: int) -> dict[str, PromptLogprob] | None:
    if token.logprob is None or token.rank is None:
        return None
    top = {
        str(one.token): PromptLogprob(one.logprob, rank, _text(one))
        for rank, one in enumerate(token.top[:num_top], 1)
    }
    return {str(token.token): PromptLogprob(token.logprob, token.rank, _text(token))} | top


def _prompts_own(token: PromptToken, num_top: int) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    likely = {_text(one): one.logprob for one in token.top[:num_top]}
    return likely | {_text(token): token.logprob} if likely else {}


def _offsets(tokens: Sequence[PromptToken], echo: str) -> list[int]:
    """Where each token begins in the echoed text, in which special ones need not be: characters."""
    decoder = getincrementaldecoder("utf-8")("replace")
    offsets, at = [], 0
    for token in tokens:
        offsets.append(min(at, len(echo)))
        if not token.special or echo.startswith(token.text.decode(errors="replace"), at):
            at += len(decoder.decode(token.text))
    return offsets


def _by_text(token: TokenLogprobs) -> dict[str, float]:
    """The alternatives and, as OpenAI has it, the token itself."""
    likely = [*token.top, token.chosen] if token.top else []
    return {_text(one): one.logprob for one in likely}


def _text(likelihood: Likelihood | PromptToken) -> str:
    """Broken characters in OpenAI's notation, so that tokens stay distinct."""
    try:
        return likelihood.text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in likelihood.text)
