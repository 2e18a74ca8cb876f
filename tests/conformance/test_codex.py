"""Codex CLI works a turn against the started server, with no network but loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import codex
import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs" / "conformance.md"


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("no npm to install Codex with")
    up = [*codex.NAMESPACE, "ip", "link", "set", "lo", "up"]
    try:
        subprocess.run(up, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace of one's own here: {error}")
    try:
        return codex.fetch(tmp_path / "npm")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm cannot install {codex.PACKAGE}: {error.stderr}")


@pytest.mark.timeout(900)
def test_codex_takes_a_turn_as_launched_and_by_oss(
    binary: Path, demo_folder: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*codex.NAMESPACE, sys.executable, codex.__file__, binary, tmp_path],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    turns = json.loads(done.stdout)
    assert list(turns) == ["launch", "oss"]
    for lines in turns.values():
        events = [json.loads(line) for line in lines]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        said = [item["text"] for item in items if item["type"] == "agent_message"]
        assert [json.loads(text) for text in said] == [{"greeting": "hello"}]
        assert events[-1]["type"] == "turn.completed"
        assert events[-1]["usage"]["input_tokens"] > 0


def test_the_docs_name_the_version_of_codex() -> None:
    assert f"`@openai/codex` {codex.VERSION}" in DOCS.read_text()
