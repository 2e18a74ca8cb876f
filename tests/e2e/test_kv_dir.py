"""A really restarted server goes on with the chats of the one before it."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from server_process import started
from tiny_models import save_model_with_tokenizer

SYSTEM = "a system prompt that all chats begin with, and that is long enough to be kept. " * 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model_with_tokenizer(tmp_path_factory.mktemp("models") / "tiny", "llama", 3)


def chat(url: str, *said: str, **options: Any) -> tuple[str, int]:
    """The answer to these turns, and how many tokens of them were there already."""
    roles = ["system", *["user", "assistant"] * len(said)]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    body = {"model": "tiny", "messages": messages, "max_tokens": 24, "temperature": 0, **options}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).raise_for_status()
    told = answer.json()
    cached = told["usage"]["prompt_tokens_details"]["cached_tokens"]
    return told["choices"][0]["message"]["content"], cached


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next(it for it in lines if it.startswith(f"mlxspec:{name} ")).split()[1])


def test_the_next_turn_after_a_restart_reuses_what_was_said(model: Path, tmp_path: Path) -> None:
    flags, log = ("--kv-dir", str(tmp_path / "kv")), tmp_path / "log"
    with started(log, model, *flags) as url:
        said, cached = chat(url, SYSTEM, "hello")
        assert cached == 0
    with started(log, model, *flags) as url:
        again, cached = chat(url, SYSTEM, "hello")
        assert (again, cached) == (said, 256)
        assert metric(url, "kv_file_tokens_total") == 256
        assert metric(url, "kv_file_bytes") > 0
        _, cached = chat(url, SYSTEM, "hello", cache_salt="mine")
        assert cached == 0


def test_torn_files_are_dropped_and_the_answer_is_the_same(model: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "kv", tmp_path / "log"
    flags = ("--kv-dir", str(folder), "--kv-dir-size", "1MB")
    with started(log, model, *flags) as url:
        said, _ = chat(url, SYSTEM, "hello")
    files = list(folder.iterdir())
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:-7])
    (folder / "notes.txt").write_text("not ours")
    with started(log, model, *flags) as url:
        assert chat(url, SYSTEM, "hello") == (said, 0)
        assert metric(url, "kv_files_dropped_total") == 1
    assert (folder / "notes.txt").exists()
    assert "kv on disk is dropped" in log.read_text()
