"""What an answer must be: `response_format`, and vLLM's `structured_outputs` and `guided_*`."""

import json
from collections.abc import Iterator
from typing import Any

from mlxspec.api.json_grammar import ANY_OBJECT, json_grammar
from mlxspec.api.openai.params import CommonParams, ResponseFormat
from mlxspec.engine.request import Grammar
from mlxspec.errors import BadRequestError


def grammar_of(params: CommonParams) -> Grammar | None:
    """The one grammar asked for, or None; BadRequestError if there are several or one is broken."""
    asked = list(_asked(params))
    if len(asked) > 1:
        names = " and ".join(grammar.param for grammar in asked)
        raise BadRequestError(f"{names} ask for different forms: send one", param=asked[1].param)
    return asked[0] if asked else None


def _asked(params: CommonParams) -> Iterator[Grammar]:
    if params.response_format is not None:
        yield from _of_format(params.response_format)
    if (outputs := params.structured_outputs) is not None:
        if outputs.json_object:
            yield json_grammar(ANY_OBJECT, "structured_outputs.json_object")
        for name in ("json", "regex", "choice", "grammar"):
            yield from _of_field(name, getattr(outputs, name), f"structured_outputs.{name}")
    for name in ("json", "regex", "choice", "grammar"):
        yield from _of_field(name, getattr(params, f"guided_{name}"), f"guided_{name}")


def _of_format(asked: ResponseFormat) -> Iterator[Grammar]:
    if asked.type == "json_object":
        yield json_grammar(ANY_OBJECT, "response_format")
    if asked.type == "json_schema":
        if asked.json_schema is None or asked.json_schema.schema is None:
            raise BadRequestError(
                "response_format json_schema has no schema: send json_schema.schema",
                param="response_format.json_schema",
            )
        yield json_grammar(asked.json_schema.schema, "response_format")


def _of_field(name: str, value: Any, param: str) -> Iterator[Grammar]:
    if value is None:
        return
    match name:
        case "json":
            yield json_grammar(value, param)
        case "regex":
            yield Grammar(kind="regex", source=value, param=param)
        case "choice":
            words = " | ".join(json.dumps(word, ensure_ascii=False) for word in value)
            yield Grammar(kind="lark", source=f"start: {words}", param=param)
        case _:
            yield Grammar(kind="lark", source=value, param=param)
