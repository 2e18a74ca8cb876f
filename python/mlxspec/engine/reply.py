"""From a reply's raw text to its parts, as they come: reasoning, answer, tool calls."""

import json
import secrets
import string
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog
from mlx_lm.generate import TextStateMachine

from mlxspec.engine.request import ToolCall

log = structlog.get_logger()

CALL_ID_LETTERS = string.ascii_letters + string.digits
CALL_ID_SIZE = 9
"""Mistral's templates accept ids of nine letters and digits only; all others take any."""


class Part(NamedTuple):
    """One of: answer text, reasoning text, a whole tool call."""

    text: str = ""
    reasoning: str = ""
    call: ToolCall | None = None


class ReplyParser:
    """Splits one reply by its model's markers, which are in no part.

    Text that may be the beginning of a marker is held back. A call that cannot be read is text.
    `machine` None means that the model marks nothing. `read_calls` reads the text between the call
    markers, `marker` being the first of them; after `max_calls` calls the parser is `full`.
    """

    def __init__(
        self,
        machine: TextStateMachine | None,
        section: str,
        read_calls: Callable[[str], Any],
        marker: str,
        max_calls: int | None,
    ) -> None:
        self._state = machine.make_state(section) if machine else None
        self._section = section
        self._read_calls = read_calls
        self._marker = marker
        self._max_calls = max_calls
        self._after_marker = section != "normal"
        self._call = ""
        self._parts: list[Part] = []
        self.num_calls = 0

    @classmethod
    def plain(cls) -> "ReplyParser":
        """For text that is no reply: all of it is one part."""
        return cls(None, "normal", list, "", None)

    @property
    def section(self) -> str:
        """What the next text belongs to: `normal`, `reasoning`, `tool`, or a format's own name."""
        return self._section

    @property
    def full(self) -> bool:
        """Whether the reply has all the calls it may have."""
        return self._max_calls is not None and self.num_calls >= self._max_calls

    def push(self, text: str) -> None:
        """Take new text."""
        if self._state is None:
            self._add(text)
            return
        self._state, segments = TextStateMachine.split(self._state, text)
        for at, (section, piece) in enumerate(segments):
            if at:
                self._enter(section)
            if self.full:
                return
            self._add(piece)

    def finish(self) -> None:
        """The reply has ended: nothing is held back any more."""
        if self._state is not None and not self.full:
            self._state, held, _ = TextStateMachine.flush(self._state)
            self._add(held)
        self._enter("normal")

    def take(self) -> list[Part]:
        """The parts since the last time, neighbours of one kind joined."""
        parts, self._parts = self._parts, []
        return parts

    def _enter(self, section: str) -> None:
        if self._section == "tool":
            self._end_call()
        self._section = section
        self._after_marker = True

    def _add(self, piece: str) -> None:
        if self._section == "tool":
            self._call += piece
            return
        if self._after_marker:
            # Line breaks around a marker belong to the marker.
            piece = piece.lstrip("\n")
            self._after_marker = not piece
        if piece and self._section == "normal":
            self._append(Part(text=piece))
        elif piece and self._section == "reasoning":
            self._append(Part(reasoning=piece))

    def _append(self, part: Part) -> None:
        last = self._parts[-1] if self._parts else Part()
        if (part.text and last.text) or (part.reasoning and last.reasoning):
            self._parts[-1] = Part(last.text + part.text, last.reasoning + part.reasoning)
        else:
            self._parts.append(part)

    def _end_call(self) -> None:
        raw, self._call = self._call, ""
        try:
            calls = _tool_calls(self._read_calls(raw), self.num_calls)
        except Exception as error:  # noqa: BLE001 - parsers meet whatever a model writes
            log.warning("tool call cannot be read", error=type(error).__name__, num_chars=len(raw))
            self._append(Part(text=self._marker + raw))
            return
        for call in calls:
            if not self.full:
                self._append(Part(call=call))
                self.num_calls += 1


def _tool_calls(parsed: Any, first: int) -> list[ToolCall]:
    """What mlx-lm's parsers return, one call or several; raises where it is no call."""
    calls = parsed if isinstance(parsed, list) else [parsed]
    return [_tool_call(call, index) for index, call in enumerate(calls, first)]


def _tool_call(parsed: dict[str, Any], index: int) -> ToolCall:
    name, arguments = parsed["name"], parsed.get("arguments", {})
    if not isinstance(name, str):
        raise TypeError("a tool's name is text")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(index=index, id=parsed.get("id") or _call_id(), name=name, arguments=arguments)


def _call_id() -> str:
    return "".join(secrets.choice(CALL_ID_LETTERS) for _ in range(CALL_ID_SIZE))
