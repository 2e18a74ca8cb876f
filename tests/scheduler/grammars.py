"""Requests with a grammar, over a vocabulary of bytes."""

import asyncio
from typing import Any

from token_engine import Answer, TokenEngine
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlxspec.engine.grammar import GrammarCompiler
from mlxspec.engine.request import Grammar
from mlxspec.speculative.constrain import Constraint

END = 256
VOCAB = 257
PROMPT = [*b'{"name": "ab", "items": [1, 2, true], "name": "ab", "items": [1, 2']


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, by its own number, and one for the end."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(256 + at) for at, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab={names[byte]: byte for byte in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    return tokenizer


def compiled(compiler: GrammarCompiler, kind: Any, source: str) -> Constraint:
    return asyncio.run(compiler.compile(Grammar(kind=kind, source=source, param="p")))


def submit(engine: TokenEngine, constraint: Constraint, max_tokens: int, **options: Any) -> int:
    constraints = engine.runner.constraints(0)
    assert constraints is not None
    key = constraints.add(constraint.copy())
    return engine.submit(PROMPT, max_tokens, stop_tokens=[END], constraint=key, **options)


def text_of(answer: Answer) -> str:
    assert answer.reason == "stop", bytes(answer.tokens[:80])
    assert answer.tokens[-1] == END
    return bytes(answer.tokens[:-1]).decode()
