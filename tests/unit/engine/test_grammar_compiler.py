"""Grammars that are broken, large, deep or hostile are refused in bounded time, by name."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from mlxspec.engine import grammar as grammar_module
from mlxspec.engine.grammar import MAX_BYTES, GrammarCompiler
from mlxspec.engine.request import Grammar
from mlxspec.errors import BadRequestError, UnavailableError


def compiler(stop_tokens: list[int]) -> GrammarCompiler:
    """Over printable ASCII."""
    pieces = {chr(code): code - 32 for code in range(32, 127)}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return GrammarCompiler(tokenizer, len(pieces) + 1, stop_tokens)


def refuse(kind: Any, source: str, stop_tokens: tuple[int, ...] = (95,)) -> str:
    grammar = Grammar(kind=kind, source=source, param="response_format")
    start = time.monotonic()
    with pytest.raises(BadRequestError) as refused:
        asyncio.run(compiler([*stop_tokens]).compile(grammar))
    assert time.monotonic() - start < 10
    assert refused.value.param == "response_format"
    return refused.value.message


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(a"),
        ("lark", "start: nowhere"),
        ("lark", "start: ((("),
        ("json_schema", '{"type": "wizard"}'),
        ("json_schema", '{"$ref": "#/$defs/none"}'),
        ("json_schema", '{"$ref": "http://example.com/schema.json"}'),
        ("json_schema", '{"type": "string", "pattern": "["}'),
        ("json_schema", '{"not": {"type": "string"}}'),
    ],
)
def test_a_broken_grammar_is_named_with_its_fault(kind: str, source: str) -> None:
    assert "cannot be used" in refuse(kind, source)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("regex", "(((((a{1,99}){1,99}){1,99}){1,99}){1,99})"),
        ("regex", "(x+x+)+y" * 50 + "(.*a){300}"),
        ("lark", "start: " + " ".join(f"r{at}" for at in range(3000)) + "\n"),
        ("json_schema", json.dumps({"type": "string", "pattern": "(.*a){500}(b|.){500}"})),
        ("json_schema", json.dumps({"enum": ["x" * 60 + str(at) for at in range(900)]})),
    ],
)
def test_a_hostile_grammar_takes_bounded_time(kind: Any, source: str) -> None:
    grammar = Grammar(kind=kind, source=source, param="p")
    start = time.monotonic()
    try:
        constraint = asyncio.run(compiler([95]).compile(grammar))
        constraint.matcher.compute_bitmask()
    except BadRequestError as error:
        assert error.message  # noqa: PT017 - refusing is as good as compiling
    assert time.monotonic() - start < 10


def test_size_and_depth_have_limits() -> None:
    assert f"at most {MAX_BYTES}" in refuse("regex", "a" * (MAX_BYTES + 1))
    assert "deeper than 64" in refuse("json_schema", json.dumps(nested(200)))


def test_a_model_that_cannot_end_is_named() -> None:
    assert "no end-of-text token" in refuse("regex", "a", stop_tokens=())


def test_a_grammar_at_its_limits_compiles() -> None:
    grammar = Grammar(kind="json_schema", source=json.dumps(nested(30)), param="p")
    assert not asyncio.run(compiler([95]).compile(grammar)).error


async def test_a_grammar_that_takes_for_ever_is_blamed_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiling, go_on, plain = compiler([95]), threading.Event(), GrammarCompiler._compile

    def slow(self: GrammarCompiler, grammar: Grammar) -> Any:
        if grammar.source == "slow":
            go_on.wait(30)
        return plain(self, grammar)

    monkeypatch.setattr(GrammarCompiler, "_compile", slow)
    monkeypatch.setattr(grammar_module, "MAX_SECONDS", 0.2)
    behind, late = (Grammar(kind="regex", source=source, param="p") for source in ("a", "slow"))
    both = [compiling.compile(late), compiling.compile(behind)]
    blamed, waited = await asyncio.gather(*both, return_exceptions=True)
    assert isinstance(blamed, BadRequestError)
    assert isinstance(waited, UnavailableError)
    with pytest.raises(UnavailableError) as refused:
        await compiling.compile(behind)  # at once, as the thread is not free
    assert refused.value.retry_after
    go_on.set()
    monkeypatch.undo()
    while True:
        try:
            await compiling.compile(behind)
            break
        except UnavailableError:
            await asyncio.sleep(0.01)
