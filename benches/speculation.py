"""Accepted tokens per pass of the target, drafter by drafter; shared noise beside rejection.

    python benches/speculation.py                           # drafts from text, the demo model
    python benches/speculation.py --draft-model FOLDER      # and a draft model, by either rule
    python benches/speculation.py --quick                   # a try of the bench, not a measurement

Each drafter answers the same prompts on a server of its own, several at once, with the same seeds.
benches/README.md says what each figure means.
"""

import argparse
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from mlxspec.model.store import resolve
from serving import report
from serving.client import Answer, Question, ask_together
from serving.failure import BenchError, run_bench
from serving.prompts import KINDS, Kind, Messages, Prompts
from serving.servers import Server, our_server

REPORT: Final = "/v1/speculation/report"


class Drafter(NamedTuple):
    """Flags of a server that has this drafter, and how it is asked.

    counts: its name in the report. asks: how often the same, so that the last time earlier answers
    can be drafted from. predicted: whether the right answer is predicted.
    """

    counts: str
    flags: tuple[str, ...] = ()
    asks: int = 1
    predicted: bool = False


class Figures(NamedTuple):
    """What a drafter brought: see benches/README.md."""

    per_pass: float
    per_drafting_pass: float | None
    kept: float | None


def drafters(draft_model: Path | None) -> dict[str, Drafter]:
    """All there are to compare."""
    found = {
        "suffix": Drafter("suffix"),
        "shared suffix": Drafter("shared_suffix", ("--shared-suffix-memory", "32MiB"), asks=2),
        "prediction": Drafter("prediction", predicted=True),
    }
    if draft_model is not None:
        model = ("--draft-model", str(draft_model))
        found["model, shared noise"] = Drafter("draft_model", model)
        rejection = ("--acceptance", "rejection")
        found["model, rejection"] = Drafter("draft_model", (*model, *rejection))
    return found


class Bench:
    """What is asked of every drafter."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        prompts = Prompts()
        self._asked = {
            kind: prompts.take(kind, options.clients, options.requests) for kind in options.kinds
        }

    def measure(self, server: Server, drafter: Drafter, kind: Kind, heat: float) -> Figures:
        """One kind of prompts at one temperature."""
        asked = self._asked[kind]
        extra = self._extra(drafter, heat)
        said: list[str | None] = [None] * sum(map(len, asked))
        if drafter.predicted:
            off = extra | {"speculative": {"enabled": False}}
            said = [answer.text for answer in self._ask(server, asked, off, said)]
        for _ in range(drafter.asks):
            before = _counts(server, drafter.counts)
            answers = self._ask(server, asked, extra, said)
        after = _counts(server, drafter.counts)
        return _figures(answers, after[0] - before[0], after[1] - before[1])

    def _extra(self, drafter: Drafter, heat: float) -> dict[str, Any]:
        return {"temperature": heat, "seed": 7, "cache_salt": f"{drafter.counts} {heat}"}

    def _ask(
        self,
        server: Server,
        asked: list[list[Messages]],
        extra: dict[str, Any],
        said: list[str | None],
    ) -> list[Answer]:
        predictions = iter(said)

        def question(messages: Messages) -> Question:
            text = next(predictions)
            predicted = {"prediction": {"type": "content", "content": text}} if text else {}
            tokens = self._options.max_tokens
            return Question.of(server.port, server.model, messages, tokens, extra | predicted)

        return ask_together([[question(each) for each in client] for client in asked])


def _figures(answers: list[Answer], proposed: int, accepted: int) -> Figures:
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    told = [answer.speculation for answer in answers if answer.speculation is not None]
    gained = sum(it.num_accepted_draft_tokens for it in told)
    drafting = sum(it.num_spec_steps for it in told)
    return Figures(
        per_pass=tokens / max(1, tokens - gained),
        per_drafting_pass=1 + gained / drafting if drafting else None,
        kept=accepted / proposed if proposed else None,
    )


def _counts(server: Server, drafter: str) -> tuple[int, int]:
    """Draft tokens of a drafter so far: verified, and kept."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", REPORT)
        [told] = json.load(connection.getresponse())["data"]
    finally:
        connection.close()
    counts = told["drafters"][drafter]
    return counts["proposed_tokens"], counts["accepted_tokens"]


def _line(name: str, kind: str, heat: float, figures: Figures) -> str:
    shown = [f"{figures.per_pass:9.2f}"]
    shown.append("        -" if (it := figures.per_drafting_pass) is None else f"{it:9.2f}")
    shown.append("       -" if figures.kept is None else f"{figures.kept:7.0%} ")
    return f"{name:20} {kind:5} {heat:4.1f} {''.join(shown)}"


@contextmanager
def _server(folder: Path, drafter: Drafter) -> Iterator[Server]:
    with our_server(folder, *drafter.flags) as server:
        try:
            yield server
        except BenchError as error:
            raise BenchError(f"{drafter.counts}: {error}\n{server.log_tail()}") from None


def main() -> None:
    options = _options()
    run_bench("speculation", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    folder = resolve(options.model, download=False)
    draft_model = options.draft_model and resolve(options.draft_model, download=False)
    bench = Bench(options)
    print(report.machine_line(report.machine()))
    print(f"\n{'drafter':20} kind  temp     /pass  /drafted    kept", flush=True)
    for name, drafter in drafters(draft_model).items():
        with _server(folder, drafter) as server:
            for kind in options.kinds:
                for heat in options.temperatures:
                    figures = bench.measure(server, drafter, kind, heat)
                    print(_line(name, kind, heat, figures), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a stored name or a model folder")
    parser.add_argument("--draft-model", help="a smaller model")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.7, 1.0])
    parser.add_argument("--clients", type=int, default=4, help="at once; default 4")
    parser.add_argument("--requests", type=int, help="of each client, in turn; default 4")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--quick", action="store_true", help="1 request of each client, 24 tokens")
    options = parser.parse_args()
    options.requests = options.requests or (1 if options.quick else 4)
    options.max_tokens = 24 if options.quick else options.max_tokens
    return options


if __name__ == "__main__":
    main()
