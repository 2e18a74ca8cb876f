"""Grammars of tool calls in a model's own shape, in llguidance's dialect of Lark.

```text
call_0: "[TOOL_CALLS]find" "[ARGS]" arguments_0
arguments_0: %json {"type": "object", ...}
```
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlxspec.engine.call_shape import CallShape, Tag
from mlxspec.engine.grammar import WHITESPACE
from mlxspec.engine.request import Tool

JSON_OPTIONS = {"whitespace_pattern": WHITESPACE}
"""What llguidance is told with each schema."""

OPEN = frozenset({"allOf", "anyOf", "oneOf", "$ref", "patternProperties"})
"""With one of these, `properties` need not name all that are declared."""


class Speller:
    """Writes texts as terms of a grammar; `added` has the ids of tokens that stand for a marker."""

    def __init__(self, added: Mapping[str, int]) -> None:
        self._added = added

    def literal(self, text: str) -> str:
        """The text, in which a marker may come as its token or letter by letter."""
        known = sorted((marker for marker in self._added if marker in text), key=len, reverse=True)
        if not known:
            return _quoted(text)
        pieces = re.split(f"({'|'.join(map(re.escape, known))})", text)
        return " ".join(self._piece(piece) for piece in pieces if piece) or '""'

    def until(self, name: str, marker: str) -> str:
        """Rules for any text up to and with the first such marker."""
        spelled = f"{name}_spelled[lazy]: /(?s:.*)/ {_quoted(marker)}\n"
        if marker not in self._added:
            return f"{name}: {name}_spelled\n{spelled}"
        token = f"{name}_text <[{self._added[marker]}]>"
        return f"{name}: {name}_spelled | {token}\n{spelled}{name}_text: /(?s:.*)/\n"

    def _piece(self, piece: str) -> str:
        if piece not in self._added:
            return _quoted(piece)
        return f"( <[{self._added[piece]}]> | {_quoted(piece)} )"


def call_rules(shape: CallShape, tools: list[Tool], speller: Speller) -> str:
    """Rules of `call_0`, `call_1`... and of `call`, any of them."""
    rules = ["call: " + " | ".join(f"call_{at}" for at in range(len(tools)))]
    for at, tool in enumerate(tools):
        rules += _call(shape, tool["function"], at, speller)
    return "\n".join(rules) + "\n"


def calls_rule(shape: CallShape, speller: Speller, *, several: bool) -> str:
    """The rule `calls`: one call, or one after the other."""
    more = f" ({speller.literal(shape.between)} call)*" if several and shape.between else ""
    more = " call*" if several and not shape.between else more
    ends = [speller.literal(text) if text else "" for text in (shape.opening, shape.closing)]
    return f"calls: {ends[0]} call{more} {ends[1]}\n"


def _call(
    shape: CallShape, function: Mapping[str, Any], at: int, speller: Speller
) -> Iterator[str]:
    name = json.dumps(function["name"], ensure_ascii=False)[1:-1]
    number = '":" /[0-9]{1,3}/' if shape.numbered else ""
    head = f"{speller.literal(shape.before + name)} {number} {speller.literal(shape.behind)}"
    end = speller.literal(shape.end) if shape.end else ""
    yield f"call_{at}: {head} arguments_{at} {end}"
    schema = _schema(function)
    if shape.tag is None:
        yield f"arguments_{at}: %json {json.dumps(schema)}"
    else:
        yield from _tagged(shape.tag, schema, at, speller)


def _schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments must be: declared, unless the schema says that others may come.

    Where the client is not strict about it, what a grammar cannot express is left out.
    """
    schema = {"type": "object", **(function.get("parameters") or {"properties": {}})}
    if "properties" in schema and not OPEN.intersection(schema):
        schema.setdefault("additionalProperties", False)
    return {**schema, "x-guidance": {**JSON_OPTIONS, "lenient": function.get("strict") is not True}}


def _tagged(tag: Tag, schema: dict[str, Any], at: int, speller: Speller) -> Iterator[str]:
    """Rules of arguments that stand in tags, in the schema's order, those that may miss if so."""
    rule, required = f"arguments_{at}", schema.get("required") or ()
    shared = {key: schema[key] for key in ("$defs", "definitions", "x-guidance") if key in schema}
    items = []
    for index, (name, value) in enumerate((schema.get("properties") or {}).items()):
        item = f"{rule}_{index}"
        items.append(item if name in required else f"{item}?")
        yield f"{item}: {speller.literal(tag.before + name + tag.behind)} {item}_value"
        if isinstance(value, dict) and value.get("type") == "string" and "enum" not in value:
            yield speller.until(f"{item}_value", tag.end)
        elif isinstance(value, dict) and (words := _words(value)):
            yield f"{item}_value: ({words}) {speller.literal(tag.end)}"
        else:
            inner = {**value, **shared} if isinstance(value, dict) else shared
            yield f"{item}_value: {item}_json {speller.literal(tag.end)}"
            yield f"{item}_json: %json {json.dumps(inner)}"
    yield f"{rule}: {' '.join(items)}" if items else f'{rule}: ""'


def _words(schema: dict[str, Any]) -> str:
    """The strings that an enumeration allows, which stand without quotes."""
    words = schema.get("enum")
    if not words or not all(isinstance(word, str) for word in words):
        return ""
    return " | ".join(_quoted(word) for word in words)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
