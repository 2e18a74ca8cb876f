"""Constrained outputs validate, and speculation changes none of them."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from grammars import END, PROMPT, compiled, submit, text_of
from token_engine import Answer, TokenEngine, token_engine

from mlxspec.engine.grammar import GrammarCompiler

pytestmark = pytest.mark.usefixtures("drafts_look_free")


@pytest.fixture
def engine(byte_folder: Path) -> Iterator[TokenEngine]:
    with token_engine(byte_folder) as running:
        yield running


LEAVES: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "null"},
    {"enum": [1, "a", None, [2]]},
    {"const": {"x": "y"}},
    {"type": "integer", "minimum": -5, "maximum": 120},
    {"type": "string", "maxLength": 5},
    {"type": "string", "pattern": "^[a-f]{2,4}$"},
    {"type": "string", "format": "date"},
    {"anyOf": [{"type": "boolean"}, {"type": "integer", "minimum": 7, "maximum": 9}]},
    {"type": ["null", "boolean"]},
    {"type": "string", "enum": ["red", "green", "\u00fcber"]},
]


def closed(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def wrapped(leaf: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Twenty schemas around one."""
    yield leaf
    for least, most in itertools.combinations(range(4), 2):
        yield {"type": "array", "items": leaf, "minItems": least, "maxItems": most}
    for required in ([], ["name"], ["items"], ["name", "items"]):
        yield closed({"name": leaf, "items": {"type": "boolean"}}, required)
        pairs = {"type": "array", "items": leaf, "maxItems": 2}
        yield closed({"name": closed({"a": leaf}, ["a"]), "items": pairs}, required)
    yield {"anyOf": [leaf, {"const": 3}]}
    yield {"$defs": {"leaf": leaf}, "$ref": "#/$defs/leaf"}
    yield {"type": "array", "prefixItems": [leaf, leaf], "items": False, "minItems": 2}
    yield {"allOf": [leaf]}
    yield {"$defs": {"l": leaf}, **closed({"a": {"$ref": "#/$defs/l"}}, ["a"])}


SCHEMAS = [schema for leaf in LEAVES for schema in wrapped(leaf)]


def test_outputs_of_two_hundred_schemas_validate_with_speculation_on_and_off(
    engine: TokenEngine, compiler: GrammarCompiler
) -> None:
    assert len(SCHEMAS) >= 200
    drafted = answers_of_all_schemas(engine, compiler)
    plain = answers_of_all_schemas(engine, compiler, speculate=False)
    for schema, one, other in zip(SCHEMAS, drafted, plain, strict=True):
        assert one.tokens == other.tokens, schema
        jsonschema.Draft202012Validator(schema).validate(json.loads(text_of(one)))
    kept = sum(count * times for it in drafted for count, times in enumerate(it.accepted))
    assert kept > 100, "no drafts were kept under a mask"


def answers_of_all_schemas(
    engine: TokenEngine, compiler: GrammarCompiler, **options: Any
) -> list[Answer]:
    """In batches: what a schema's answer is alone, other tests ask."""
    answers = []
    for first in range(0, len(SCHEMAS), 16):
        running = []
        for number, schema in enumerate(SCHEMAS[first : first + 16], first):
            constraint = compiled(compiler, "json_schema", json.dumps(schema))
            how = {"temperature": number % 3 / 2, "seed": number, **options}
            running.append(submit(engine, constraint, 900, **how))
        answers += [engine.result(request) for request in running]
    return answers


def test_a_batch_of_grammars_and_free_texts_gets_what_each_gets_alone(
    engine: TokenEngine, compiler: GrammarCompiler
) -> None:
    constraints = [
        compiled(compiler, "json_schema", json.dumps(schema)) for schema in SCHEMAS[7::20]
    ]
    constraints.append(compiled(compiler, "regex", "(ab|cd){2,9}[0-9]{1,3}"))
    constraints.append(compiled(compiler, "lark", 'start: ("yes" | "no") " "? "!"'))
    how = {"temperature": 0.7, "repetition_penalty": 1.1, "seed": 3}
    alone = [
        engine.result(submit(engine, it, 900, speculate=False, **how)).tokens for it in constraints
    ]
    free = engine.generate(PROMPT, 60, **how)
    running = [submit(engine, it, 900, **how) for it in constraints]
    beside = engine.submit(PROMPT, 60, **how)
    assert [engine.result(request).tokens for request in running] == alone
    assert engine.result(beside).tokens == free


def test_a_preempted_request_keeps_its_grammar(
    byte_folder: Path, compiler: GrammarCompiler
) -> None:
    schema = {"type": "array", "items": {"enum": [*range(50)]}, "minItems": 60, "maxItems": 90}
    constraint = compiled(compiler, "json_schema", json.dumps(schema))
    row = 256 * 2 * 2 * (8 + 8) * 4
    with token_engine(byte_folder, kv_bytes=6 * row) as tight:
        running = [submit(tight, constraint, 600, temperature=0.8, seed=at) for at in range(3)]
        answers = [tight.result(request) for request in running]
        again = [
            tight.result(submit(tight, constraint, 600, temperature=0.8, seed=at, speculate=False))
            for at in range(3)
        ]
    assert sum(answer.preemptions for answer in answers) > 0
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in again]
    for answer in answers:
        jsonschema.validate(json.loads(text_of(answer)), schema)


def test_a_grammar_that_takes_too_much_work_ends_its_own_request_and_no_other(
    engine: TokenEngine, compiler: GrammarCompiler
) -> None:
    good = compiled(compiler, "regex", "[a-c]{5}")
    broken = compiled(compiler, "regex", "[a-c]{5}")
    broken.matcher.consume_tokens([ord("z")])
    assert broken.error
    constraints = engine.runner.constraints(0)
    assert constraints is not None
    key = constraints.add(broken)
    failing = engine.submit(PROMPT, 60, stop_tokens=[END], constraint=key)
    fine = submit(engine, good, 60)
    assert engine.result(failing).tokens == [END]
    assert constraints.drop(key)
    assert len(text_of(engine.result(fine))) == 5
