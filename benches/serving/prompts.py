"""What is asked: chat questions, and code to be copied or edited, from the files in `prompts/`."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

Kind = Literal["chat", "copy", "edit"]
Message = dict[str, str]
Messages = list[Message]

KINDS: Final[tuple[Kind, ...]] = ("chat", "copy", "edit")
FOLDER: Final = Path(__file__).parent.parent / "prompts"

COPY: Final = "Repeat this code exactly:"
EDIT: Final = (
    'Add one line with the comment "checked" at the top. Repeat the rest of this code exactly:'
)
LANGUAGES: Final = {".py": "python"}


class Prompts:
    """Conversations that never begin alike, so that no server finds one in its prompt cache.

    The case number stands in the first line. It always has five digits: the demo model's tokenizer
    splits digits, so prompts of a kind that differ in it alone are equally long.
    """

    def __init__(self, texts: Mapping[str, list[str]] | None = None) -> None:
        self._texts = dict(texts or own_texts())
        self._cases = itertools.count(1)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._texts)

    def take(self, kind: str, clients: int, requests: int) -> list[list[Messages]]:
        """Fresh conversations: for each client, one per request."""
        texts = itertools.cycle(self._texts[kind])
        return [[self._ask(texts) for _ in range(requests)] for _ in range(clients)]

    def digest(self) -> str:
        """Names this workload: two runs with the same digest asked the same things."""
        return hashlib.sha256(repr(sorted(self._texts.items())).encode()).hexdigest()[:12]

    def _ask(self, texts: Iterator[str]) -> Messages:
        opening = f"Case {next(self._cases):05}. You are a helpful AI assistant."
        return [
            {"role": "system", "content": opening},
            {"role": "user", "content": next(texts)},
        ]


def own_texts(folder: Path = FOLDER) -> dict[Kind, list[str]]:
    """What is asked by each kind of prompt."""
    code = [_fenced(file) for file in sorted((folder / "code").iterdir())]
    return {
        "chat": (folder / "chat.txt").read_text().splitlines(),
        "copy": [f"{COPY}\n{fenced}" for fenced in code],
        "edit": [f"{EDIT}\n{fenced}" for fenced in code],
    }


def texts_of(file: Path) -> dict[str, list[str]]:
    """Prompts by category: a JSON object a line, with `category`, and `turns` or `prompt`."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        row = json.loads(line)
        text = row["turns"][0] if "turns" in row else row["prompt"]
        found.setdefault(row["category"], []).append(text)
    return found


def _fenced(file: Path) -> str:
    return f"```{LANGUAGES[file.suffix]}\n{file.read_text()}```"
