"""Prompts of Spec-Bench (Xia et al., arXiv 2401.07851), where they lie beside the clone."""

import json
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "shared" / "data" / "spec_bench.jsonl"


def questions(count: int) -> list[str]:
    """First turns from all over the file; skips the test where it is not there."""
    if not FILE.exists():
        pytest.skip(f"{FILE} is not there")
    lines = FILE.read_text().splitlines()
    chosen = [lines[at * len(lines) // count] for at in range(count)]
    return [str(json.loads(line)["turns"][0]) for line in chosen]
