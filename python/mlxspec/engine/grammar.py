"""From a request's grammar to a matcher over the model's tokens: bounded work on one thread."""

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer

from mlxspec.engine.request import Grammar
from mlxspec.errors import BadRequestError, MlxspecError, UnavailableError
from mlxspec.speculative.constrain import Constraint

MAX_BYTES = 64 << 10
MAX_DEPTH = 64
BUSY_RETRY_SECONDS = 5
MAX_SECONDS = 5.0
"""Patience with one grammar; llguidance's own limits end the work itself soon after."""

WHITESPACE = r"[\x20\x0A\x09]{0,16}"
"""Between the parts of a JSON text: a weak model could go on with spaces for ever."""

LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""A compilation takes a second at most, a mask a few milliseconds."""


class GrammarCompiler:
    """Compiles the grammars of one model's requests, one at a time. Event loop only."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, stop_tokens: list[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_tokens = stop_tokens
        self._tokens: LLTokenizer | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
        self._overdue: Future[LLMatcher] | None = None
        """What the worker is still at after its request was given up."""

    async def compile(self, grammar: Grammar) -> Constraint:
        """The grammar at its beginning.

        Raises BadRequestError if it is broken or takes too much work, UnavailableError if others
        take the compiler's time.
        """
        _check_size(grammar)
        if not self._stop_tokens:
            raise _refusal(grammar, "cannot end: the model has no end-of-text token, use another")
        if self._overdue is not None and not self._overdue.done():
            raise _busy()
        work = self._worker.submit(self._compile, grammar)
        try:
            matcher = await asyncio.wait_for(asyncio.wrap_future(work), MAX_SECONDS)
        except ValueError as error:
            raise _refusal(
                grammar, f"cannot be used with this model: {error}: use another model"
            ) from None
        except TimeoutError:
            raise self._give_up(work, grammar) from None
        if matcher.is_error():
            lines = matcher.get_error().strip().splitlines() or ["no reason given"]
            raise _refusal(grammar, f"cannot be used: {lines[0][:300]}: change it")
        return Constraint(matcher, self._vocab_size, self._stop_tokens)

    def _give_up(self, work: Future[LLMatcher], grammar: Grammar) -> MlxspecError:
        """Whose fault is it that time is up: this grammar's, or that of those before it?"""
        if work.cancel():
            return _busy()
        self._overdue = work
        return _refusal(grammar, f"is not compiled after {MAX_SECONDS:.0f} s: simplify it")

    def _compile(self, grammar: Grammar) -> LLMatcher:
        """On the worker thread."""
        if self._tokens is None:
            self._tokens = LLTokenizer(
                self._tokenizer.to_str(), n_vocab=self._vocab_size, eos_token=self._stop_tokens
            )
        return LLMatcher(self._tokens, _spelled(grammar), limits=LIMITS, log_level=0)


def _check_size(grammar: Grammar) -> None:
    size = len(grammar.source.encode())
    if size > MAX_BYTES:
        raise _refusal(grammar, f"has {size} bytes: send at most {MAX_BYTES}")
    if grammar.kind == "json_schema":
        check_depth(json.loads(grammar.source), grammar.param)


def check_depth(schema: Any, param: str) -> None:
    """BadRequestError, naming the request's field, for a schema whose nesting has no end."""
    if _depth(schema) > MAX_DEPTH:
        raise BadRequestError(
            f"a JSON schema is nested deeper than {MAX_DEPTH} levels: flatten it", param=param
        )


def _depth(value: Any) -> int:
    """Levels of nesting, found without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth


def _spelled(grammar: Grammar) -> str:
    """The grammar in llguidance's own form."""
    match grammar.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(
                grammar.source, overrides={"whitespace_pattern": WHITESPACE}
            )
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.source)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.source)


def _busy() -> UnavailableError:
    return UnavailableError(
        "the model's grammar compiler is busy with other requests: try again later",
        retry_after=BUSY_RETRY_SECONDS,
    )


def _refusal(grammar: Grammar, text: str) -> BadRequestError:
    return BadRequestError(f"the {grammar.kind} grammar {text}", param=grammar.param)
