"""Clients' own test suites, run against the started server, do what conformance.toml says."""

from pathlib import Path

import pytest
from suite import NotPassing, Outcome, Suite, suites

from server_process import started
from tiny_models import save_model_with_demo_words

DOCS = Path(__file__).parents[2] / "docs" / "conformance.md"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.name)
def test_a_suite_passes_but_for_what_is_explained(
    suite: Suite, demo_folder: Path, tmp_path: Path
) -> None:
    unpacked = suite.fetch(tmp_path)
    if unpacked is None:
        pytest.skip(f"no package index: {suite.package} {suite.version} cannot be downloaded")
    length = str(suite.context_length)
    model = save_model_with_demo_words(tmp_path / "demo", demo_folder)
    with started(tmp_path / "log", model, "--context-length", length) as server:
        outcome = suite.run(unpacked, server)
    assert outcome.surprises(suite) == []


@pytest.mark.parametrize("suite", suites(), ids=lambda suite: suite.name)
def test_the_docs_have_the_suites_figures(suite: Suite) -> None:
    failing = sum(known.count for known in suite.not_passing)
    row = f"| {suite.name} | {suite.package} {suite.version} | {suite.passing} | {failing} |"
    assert row in DOCS.read_text()
    for known in suite.not_passing:
        assert f"| {known.count} | {known.reason} |" in DOCS.read_text()


def test_a_failure_without_a_reason_and_a_missing_one_are_surprises() -> None:
    suite = Suite(
        name="s",
        package="p",
        version="1",
        url_variable="U",
        url_path="",
        command=[],
        context_length=1,
        passing=2,
        not_passing=[NotPassing("known", 2, "because")],
    )
    assert Outcome(["a", "b"], ["known_1", "known_2"]).surprises(suite) == []
    assert Outcome(["a"], ["known_1", "new"]).surprises(suite) == [
        "known: 1 cases fail, not 2",
        "new: fails without a reason",
        "1 cases pass, not 2",
    ]
