"""Each drafter, each way to draw, alone, in a ragged batch and preempted: always the same tokens.

One test is one drafter in one setting, with every way to draw in it at once, so that rows of all
kinds share steps. `--full` runs every cell by itself as well, eight alike, in both layouts.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import pytest
from grammars import END, VOCAB, byte_tokenizer
from layouts import BUCKET_BYTES, EXACT, PADDED
from token_engine import Answer, TokenEngine, token_engine

from conftest import TINY_CONFIG, save_tiny_model
from mlxspec.engine.grammar import GrammarCompiler
from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape
from mlxspec.engine.request import Grammar
from mlxspec.speculative import step
from mlxspec.speculative.constrain import Constraint
from tiny_models import save_in_other_words

SCHEMA = '{"type": "array", "items": {"type": "integer"}, "minItems": 20}'

SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.7},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "top_k": {"temperature": 1.2, "top_k": 5},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "penalties": {
        "temperature": 0.6,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.1,
    },
    "bias": {"temperature": 0.8, "bias": [(3, 2.0), (7, -100.0)]},
    "allowed": {"temperature": 0.8, "allowed": [1, 5, 7, 9, 20, 33]},
    "schema": {"temperature": 0.9},
}


class Wish(NamedTuple):
    """One request: its way to draw, by name."""

    how: str
    prompt: tuple[int, ...]
    size: int
    seed: int


class Drafter(NamedTuple):
    """Where drafts come from.

    repeats: how often a test asks the same, so that earlier answers can be drafted from. told: the
    client predicts the answer, but for some wrong tokens if `errs`. kept_rate: of right drafts, so
    many are kept, as if the others had been wrong. model: a draft model. sure: some of its drafts
    are right.
    """

    shared_bytes: int = 0
    repeats: int = 1
    told: bool = False
    errs: bool = False
    kept_rate: float = 1.0
    model: str = ""
    sure: bool = True

    def prediction(self, answer: list[int]) -> list[int]:
        """What a client says that the answer will be."""
        said = [token + (self.errs and at % 9 == 8) for at, token in enumerate(answer)]
        return said if self.told else []


DRAFTERS = {
    "suffix": Drafter(sure=False),
    "shared_suffix": Drafter(shared_bytes=1 << 20, repeats=2),
    "prediction": Drafter(told=True, errs=True),
    "draft_model": Drafter(model="copy"),
    "wrong_draft_model": Drafter(model="stranger", sure=False),
    "other_words": Drafter(model="other_words"),
    "kept_never": Drafter(told=True, kept_rate=0.0, sure=False),
    "kept_30%": Drafter(told=True, kept_rate=0.3),
    "kept_70%": Drafter(told=True, kept_rate=0.7),
    "kept_always": Drafter(told=True, model="copy", shared_bytes=1 << 20, repeats=2),
}

SETTINGS = {"alone": EXACT, "ragged": PADDED, "preempted": EXACT}


def ragged_wishes(names: list[str]) -> list[Wish]:
    """Requests of different sizes, half of them repetitive, so that drafts are often right."""
    rng = random.Random(11)
    made = []
    for at, how in enumerate(names):
        words = [[rng.randrange(48) for _ in range(rng.randrange(2, 7))] for _ in range(3)]
        stutter = [token for _ in range(40) for token in rng.choice(words)]
        noise = [rng.randrange(48) for _ in range(60)]
        prompt = (stutter if at % 2 else noise)[: 10 + 5 * at]
        made.append(Wish(how, tuple(prompt), 16 + 3 * at, seed=at))
    return made


def long_wishes(names: list[str], shape: DeviceShape) -> list[Wish]:
    """Requests that nearly fill the smallest row, and soon outgrow it."""
    fill = 171 if shape.padded else 235
    long = ragged_wishes(names)
    return [
        it._replace(prompt=(it.prompt * 30)[: fill + 2 * at], size=40) for at, it in enumerate(long)
    ]


def wishes(setting: str, names: list[str], shape: DeviceShape) -> list[Wish]:
    return long_wishes(names, shape) if setting == "preempted" else ragged_wishes(names)


def drafting_folders(byte_folder: Path, root: Path) -> dict[str, Path]:
    """The target, which can draft for itself, a model that knows nothing of it, and a copy that
    lacks some of its tokens and numbers the others anew."""
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 264}
    folders = {name: root / name for name in ("stranger", "other_words")}
    for folder in folders.values():
        folder.mkdir()
    words = [token for token in range(264) if token % 9 != 5]
    random.Random(5).shuffle(words)
    save_tiny_model(folders["stranger"], TINY_CONFIG | narrow, seed=1)
    save_in_other_words(folders["other_words"], byte_folder, words)
    return {"copy": byte_folder, **folders}


@pytest.fixture(scope="module")
def folders(byte_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return drafting_folders(byte_folder, tmp_path_factory.mktemp("drafting"))


@pytest.fixture(scope="module")
def schema() -> Constraint:
    grammar = Grammar(kind="json_schema", source=SCHEMA, param="p")
    return asyncio.run(GrammarCompiler(byte_tokenizer(), VOCAB, [END]).compile(grammar))


pytestmark = pytest.mark.usefixtures("drafts_look_cheap")


class Matrix:
    """Asks engines, and remembers what plain decoding answers."""

    def __init__(self, folders: dict[str, Path], schema: Constraint | None = None) -> None:
        self._folders = folders
        self._schema = schema
        self._plain: dict[Wish, list[int]] = {}

    @contextmanager
    def engine(
        self, drafter: Drafter, shape: DeviceShape, num_rows: int = 64, **options: Any
    ) -> Iterator[TokenEngine]:
        """An engine whose KV memory holds so many of the smallest rows."""
        model = self._folders[drafter.model] if drafter.model else None
        layers = {"": 2, "copy": 4, "stranger": 3, "other_words": 4}[drafter.model]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(DEVICE_SHAPES, "cpu", shape)
            with token_engine(
                self._folders["copy"],
                draft_model=model,
                kv_bytes=num_rows * BUCKET_BYTES * layers // 2,
                shared_suffix_bytes=drafter.shared_bytes,
                **options,
            ) as running:
                yield running

    def ask(self, engine: TokenEngine, wish: Wish, **options: Any) -> int:
        if wish.how == "schema":
            assert self._schema is not None
            key = engine.runner.constraints(0).add(self._schema.copy())
            options |= {"constraint": key, "stop_tokens": [END]}
        return engine.submit(
            list(wish.prompt), wish.size, seed=wish.seed, **SAMPLINGS[wish.how], **options
        )

    def plain(self, wishes: list[Wish]) -> list[list[int]]:
        """What each gets alone, without drafts."""
        if not all(wish in self._plain for wish in wishes):
            with self.engine(Drafter(), EXACT) as engine:
                for wish in wishes:
                    request = self.ask(engine, wish, speculate=False)
                    self._plain[wish] = engine.result(request).tokens
        return [self._plain[wish] for wish in wishes]

    def answers(
        self, engine: TokenEngine, drafter: Drafter, wishes: list[Wish], *, together: bool
    ) -> list[Answer]:
        """With drafts; `together`: joining while others run, and leaving when they end."""
        right = self.plain(wishes)
        running = []
        for at, (wish, tokens) in enumerate(zip(wishes, right, strict=True)):
            running.append(self.ask(engine, wish, prediction=drafter.prediction(tokens)))
            if not together:
                engine.result(running[-1])
            elif at >= 4:
                engine.pump()
        return [engine.result(request) for request in running]


@pytest.fixture(scope="module")
def matrix(folders: dict[str, Path], schema: Constraint) -> Matrix:
    return Matrix(folders, schema)


def keep_at_rate(monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    """Right drafts are kept at a rate only: as if a drafter were right no more often."""
    original, coins = step.accept_prefix, random.Random(3)

    def kept(target: mx.array, drafts: mx.array, num_drafts: mx.array) -> mx.array:
        rows, longest = drafts.shape
        runs = [[coins.random() < rate for _ in range(longest)] + [False] for _ in range(rows)]
        most = mx.array([run.index(False) for run in runs], mx.uint32)
        return mx.minimum(original(target, drafts, num_drafts), most)

    if rate < 1:
        monkeypatch.setattr(step, "accept_prefix", kept)


def check(
    matrix: Matrix, name: str, setting: str, asked: list[Wish], shape: DeviceShape
) -> tuple[int, int]:
    """Ask, compare, and tell how many drafts were verified, and how many steps kept some."""
    drafter, tight = DRAFTERS[name], setting == "preempted"
    with matrix.engine(drafter, shape, num_rows=6 if tight else 64) as engine:
        rounds = [
            matrix.answers(engine, drafter, asked, together=setting != "alone")
            for _ in range(drafter.repeats)
        ]
    for answers in rounds:
        for wish, answer, tokens in zip(asked, answers, matrix.plain(asked), strict=True):
            assert answer.tokens == tokens, f"{wish.how} with {name}, {setting}"
        assert (sum(answer.preemptions for answer in answers) > 0) == tight
    last = rounds[-1]
    return sum(it.num_draft_tokens for it in last), sum(sum(it.accepted[1:]) for it in last)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", DRAFTERS)
def test_tokens_are_those_of_plain_decoding(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch, name: str, setting: str
) -> None:
    keep_at_rate(monkeypatch, DRAFTERS[name].kept_rate)
    shape = SETTINGS[setting]
    asked = wishes(setting, list(SAMPLINGS), shape)
    drafted, kept = check(matrix, name, setting, asked, shape)
    assert drafted > 0
    assert kept > 0 or not DRAFTERS[name].sure


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", DRAFTERS)
def test_every_cell_by_itself(
    request: pytest.FixtureRequest,
    matrix: Matrix,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    setting: str,
) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("--full runs every cell by itself")
    keep_at_rate(monkeypatch, DRAFTERS[name].kept_rate)
    for how in SAMPLINGS:
        for shape in (EXACT, PADDED):
            check(matrix, name, setting, wishes(setting, [how] * 8, shape), shape)


@pytest.mark.parametrize("name", ["suffix", "prediction", "wrong_draft_model"])
def test_a_rule_that_keeps_one_draft_too_many_would_be_seen(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = step.accept_prefix

    def generous(target: mx.array, drafts: mx.array, num_drafts: mx.array) -> mx.array:
        return mx.minimum(original(target, drafts, num_drafts) + 1, num_drafts)

    monkeypatch.setattr(step, "accept_prefix", generous)
    with pytest.raises(AssertionError, match="with"):
        check(matrix, name, "ragged", ragged_wishes(list(SAMPLINGS)), PADDED)
