"""Requests to measure with: a few of our own, of kinds that gain differently, or a user's file."""

import json
from pathlib import Path
from typing import Final

from mlxspec.errors import ConfigError

Messages = list[dict[str, str]]

_PARSER: Final = """def parse_line(line):
    name, _, value = line.partition("=")
    name = name.strip()
    value = value.strip()
    if not name:
        raise ValueError("a line needs a name")
    if value.startswith('"') and value.endswith('"'):
        value = value[1:-1]
    return name, value
"""

BUILT_IN: Final = (
    "Why does bread rise, and what changes when the dough is left overnight in the cold?",
    "Write a short letter to a neighbour whose tree has grown over our fence.",
    "A train leaves at 9:40 and arrives at 13:05 with a stop of 25 minutes. How long does it move?",
    "Write a Python function that merges overlapping intervals, with a docstring.",
    f"Repeat this function, but call the argument `text` everywhere:\n\n```python\n{_PARSER}```",
    "List the twelve months as JSON objects with the keys name, number and days.",
)
"""Open questions and a calculation gain least, code more, copies and forms most."""


def built_in() -> list[Messages]:
    """The built-in requests."""
    return [_chat(text) for text in BUILT_IN]


def read(path: Path) -> list[Messages]:
    """Requests of a JSON Lines file: each line an object with `prompt`, or with `messages`.

    Raises ConfigError naming the line at fault.
    """
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not lines:
        raise ConfigError(f"{path} is empty: write one JSON object with a prompt per line")
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]


def _parse(line: str, place: str) -> Messages:
    try:
        request = json.loads(line)
        return list(request["messages"]) if "messages" in request else _chat(request["prompt"])
    except (ValueError, TypeError, KeyError):
        raise ConfigError(
            f'{place}: not a request: write {{"prompt": "..."}} or {{"messages": [...]}}'
        ) from None


def _chat(text: str) -> Messages:
    return [{"role": "user", "content": text}]
