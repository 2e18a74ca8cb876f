"""A restarted server goes on where the last one ended: same tokens, most of them not computed
again; what a disk, or a stranger, has done to the files is found out."""

import errno
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from layouts import BUCKET_BYTES, EXACT
from texts import phrases
from token_engine import Answer, token_engine

from mlxspec._scheduler import SEGMENT_TOKENS
from mlxspec.engine.model_facts import DEVICE_SHAPES, DeviceShape
from tiny_models import save_model_with_tokenizer

pytestmark = pytest.mark.usefixtures("drafts_look_free")

SAMPLED = {"temperature": 0.8, "top_p": 0.9, "seed": 5}
PROMPT_TOKENS = 300
STORED = PROMPT_TOKENS // SEGMENT_TOKENS * SEGMENT_TOKENS


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICE_SHAPES, "cpu", EXACT)


def ask(folder: Path, prompt: list[int], kv_dir: Path | None, **options: Any) -> Answer:
    """What a server of its own says; it starts and ends for this."""
    with token_engine(folder, kv_dir=kv_dir) as engine:
        return engine.result(engine.submit(prompt, 30, **options))


def counters_after(folder: Path, prompt: list[int], kv_dir: Path, **options: Any) -> dict[str, int]:
    with token_engine(folder, kv_dir=kv_dir, **options) as engine:
        engine.generate(prompt, 30)
    counters: dict[str, int] = engine.scheduler.counters()
    return counters


@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("speculate", [True, False], ids=["drafted", "plain"])
def test_a_restarted_server_says_the_same_and_computes_only_what_is_new(
    tiny_folder: Path, tmp_path: Path, layout: DeviceShape, options: Any, speculate: bool
) -> None:
    chat = phrases(PROMPT_TOKENS, 1)
    for at in range(3):
        alone = ask(tiny_folder, chat, None, speculate=False, **options)
        answer = ask(tiny_folder, chat, tmp_path, speculate=speculate, **options)
        assert answer.tokens == alone.tokens
        # The last token of an answer was never computed.
        known = len(chat) - 10 - at if at else 0
        assert answer.cached_tokens == max(0, known - 1) // SEGMENT_TOKENS * SEGMENT_TOKENS
        chat = chat + answer.tokens + phrases(11 + at, 10 + at)


def test_a_prompt_that_differs_midway_reads_what_is_common(
    tiny_folder: Path, tmp_path: Path, layout: DeviceShape
) -> None:
    chat = phrases(PROMPT_TOKENS, 2)
    ask(tiny_folder, chat, tmp_path)
    other = chat[:200] + phrases(90, 20)
    answer = ask(tiny_folder, other, tmp_path)
    assert answer.cached_tokens == SEGMENT_TOKENS
    assert answer.tokens == ask(tiny_folder, other, None, speculate=False).tokens


def test_a_batch_of_restarted_chats_says_what_each_says_alone(
    tiny_folder: Path, tmp_path: Path, layout: DeviceShape
) -> None:
    system = phrases(200, 3)
    chats = [system + phrases(80 + 5 * at, 30 + at) for at in range(6)]
    alone = [ask(tiny_folder, chat, None, speculate=False).tokens for chat in chats]
    with token_engine(tiny_folder, kv_dir=tmp_path) as engine:
        for chat in chats[:3]:
            engine.generate(chat, 30)
    # Too little memory for all of them: some are put back, and read again.
    with token_engine(tiny_folder, kv_dir=tmp_path, kv_bytes=8 * BUCKET_BYTES) as tight:
        running = [tight.submit(chat, 30) for chat in chats]
        answers = [tight.result(request) for request in running]
    assert [answer.tokens for answer in answers] == alone
    assert sum(answer.cached_tokens for answer in answers) >= 6 * SEGMENT_TOKENS


def test_each_salt_finds_its_own_and_no_name_tells_it(
    tiny_folder: Path, tmp_path: Path, exact: None
) -> None:
    chat = phrases(PROMPT_TOKENS, 4)
    ask(tiny_folder, chat, tmp_path, cache_salt="anna")
    before = sorted(tmp_path.iterdir())
    assert ask(tiny_folder, chat, tmp_path, cache_salt="bert").cached_tokens == 0
    assert ask(tiny_folder, chat, tmp_path, cache_salt="anna").cached_tokens == STORED
    after = sorted(tmp_path.iterdir())
    assert len(after) == 2 * len(before)
    content = b"".join(file.name.encode() + file.read_bytes() for file in after)
    assert b"anna" not in content
    assert b"bert" not in content
    assert all(file.stat().st_mode & 0o077 == 0 for file in after)


def test_other_weights_of_the_same_shape_find_nothing(tmp_path: Path, exact: None) -> None:
    one, other = (save_model_with_tokenizer(tmp_path / f"{at}", "llama", at) for at in (1, 2))
    chat, kv_dir = phrases(PROMPT_TOKENS, 5), tmp_path / "kv"
    ask(one, chat, kv_dir)
    answer = ask(other, chat, kv_dir)
    assert answer.cached_tokens == 0
    assert answer.tokens == ask(other, chat, None).tokens


def test_a_copy_of_the_model_elsewhere_finds_all(
    tiny_folder: Path, tmp_path: Path, exact: None
) -> None:
    chat, kv_dir = phrases(PROMPT_TOKENS, 5), tmp_path / "kv"
    ask(tiny_folder, chat, kv_dir)
    shutil.copytree(tiny_folder, tmp_path / "copy")
    assert ask(tmp_path / "copy", chat, kv_dir).cached_tokens == STORED


def tear(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:-100])


def flip(files: list[Path]) -> None:
    for file in files:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def swap(files: list[Path]) -> None:
    first, second = (file.read_bytes() for file in files[:2])
    files[0].write_bytes(second)
    files[1].write_bytes(first)


def empty(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(b"")


def nonsense(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(random.Random(1).randbytes(5000))


@pytest.mark.parametrize("harm", [tear, flip, swap, empty, nonsense])
def test_harmed_files_are_dropped_and_never_used(
    tiny_folder: Path, tmp_path: Path, exact: None, harm: Callable[[list[Path]], None]
) -> None:
    chat = phrases(PROMPT_TOKENS, 6)
    expected = ask(tiny_folder, chat, tmp_path).tokens
    files = sorted(tmp_path.iterdir())
    harm(files)
    with token_engine(tiny_folder, kv_dir=tmp_path) as engine:
        answer = engine.result(engine.submit(chat, 30))
        assert (answer.tokens, answer.cached_tokens) == (expected, 0)
        assert engine.scheduler.counters()["kv_files_dropped"] == 1
    assert ask(tiny_folder, chat, tmp_path).cached_tokens > 0, "it was written again"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files can be made, and nothing be written to them."""

    def write_bytes(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "no space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    yield
    monkeypatch.undo()


def test_a_full_disk_ends_the_writing_and_serving_goes_on(
    tiny_folder: Path, tmp_path: Path, exact: None, full_disk: None
) -> None:
    chat = phrases(PROMPT_TOKENS, 7)
    with token_engine(tiny_folder, kv_dir=tmp_path) as engine:
        said = [engine.generate(chat, 30) for _ in range(3)]
        assert said[0] == said[1] == said[2]
    counters = engine.scheduler.counters()
    assert (counters["kv_file_errors"], counters["kv_file_bytes"]) == (1, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stays_within_its_size(tiny_folder: Path, tmp_path: Path, exact: None) -> None:
    one = counters_after(tiny_folder, phrases(SEGMENT_TOKENS, 8), tmp_path)["kv_file_bytes"]
    assert one == sum(file.stat().st_size for file in tmp_path.iterdir()) > 0
    for seed in range(4):
        prompt = phrases(PROMPT_TOKENS, 80 + seed)
        counters = counters_after(tiny_folder, prompt, tmp_path, kv_dir_bytes=3 * one)
        files = list(tmp_path.iterdir())
        assert counters["kv_file_bytes"] == sum(file.stat().st_size for file in files) == 3 * one
    assert ask(tiny_folder, prompt, tmp_path).cached_tokens == STORED, "the latest is there"


def test_without_a_prefix_cache_nothing_is_written(
    tiny_folder: Path, tmp_path: Path, exact: None
) -> None:
    counters_after(tiny_folder, phrases(PROMPT_TOKENS, 9), tmp_path, prefix_cache=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_counted_and_serving_goes_on(
    tiny_folder: Path, tmp_path: Path, exact: None
) -> None:
    (tmp_path / "file").write_text("in the way")
    counters = counters_after(tiny_folder, phrases(PROMPT_TOKENS, 9), tmp_path / "file" / "kv")
    assert (counters["kv_file_errors"], counters["requests_finished"]) == (1, 2)


def test_an_idle_server_writes_before_it_is_told_to_end(
    tiny_folder: Path, tmp_path: Path, exact: None
) -> None:
    with token_engine(tiny_folder, kv_dir=tmp_path) as engine:
        chat = phrases(PROMPT_TOKENS, 10)
        said = engine.generate(chat, 30)
        expected = (len(chat + said) - 1) // SEGMENT_TOKENS
        deadline = time.monotonic() + 10
        while len(list(tmp_path.glob("*.safetensors"))) < expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)
