"""Is speculation ever slower than doing without, or than drafting a fixed length?

    python benches/never_slower.py                          # the demo model, every cell
    python benches/never_slower.py --kinds copy --concurrency 1 4
    python benches/never_slower.py --prompts FILE.jsonl     # by the categories of a file
    python benches/never_slower.py --quick                  # a try of the bench, not a measurement

Each contender answers the same prompts with the same seeds, in turn, the order changing from round
to round. benches/README.md says what each figure means.
"""

import argparse
import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from mlxspec.model.store import resolve
from serving import report
from serving.client import Question, ask_together
from serving.failure import BenchError, run_bench
from serving.figures import Round
from serving.prompts import Messages, Prompts, texts_of
from serving.servers import Server, our_server

GATE: Final = 0.97
"""Of the better of the others, speculation must reach so much."""

CODE_ENDS: Final = {"stop": "\n```"}
ALIKE: Final = ("--no-prefix-cache", "--kv-memory", "1GiB")


class Contender(NamedTuple):
    """A server, and what its requests say besides."""

    server: Server
    extra: dict[str, Any]


class Bench:
    """Running servers, and what to ask them."""

    def __init__(
        self, contenders: dict[str, Contender], prompts: Prompts, options: argparse.Namespace
    ) -> None:
        self._contenders = contenders
        self._prompts = prompts
        self._options = options

    def cell(self, kind: str, clients: int) -> dict[str, list[Round]]:
        """Each contender's rounds; the first of each, which warms up, is not among them."""
        rounds: dict[str, list[Round]] = {name: [] for name in self._contenders}
        for nth in range(1 + self._options.repeats):
            asked = self._prompts.take(kind, clients, self._options.requests)
            order = list(self._contenders)
            for name in order[nth % len(order) :] + order[: nth % len(order)]:
                rounds[name].append(self._round(name, kind, asked))
        return {name: measured[1:] for name, measured in rounds.items()}

    def _round(self, name: str, kind: str, asked: list[list[Messages]]) -> Round:
        server, extra = self._contenders[name]
        how = {"temperature": self._options.temperature, "seed": 7} | extra
        how |= CODE_ENDS if kind in {"copy", "edit"} else {}
        tokens = self._options.max_tokens
        questions = [
            [Question.of(server.port, server.model, each, tokens, how) for each in client]
            for client in asked
        ]
        try:
            return Round.of(ask_together(questions), 0.0)
        except BenchError as error:
            raise BenchError(f"{name}, {kind}: {error}\n{server.log_tail()}") from None


def line(kind: str, clients: int, rounds: dict[str, list[Round]]) -> str:
    """One cell: tokens per second, how `on` compares round by round, and equal texts."""
    speeds = {name: [it.tokens_per_second for it in its] for name, its in rounds.items()}
    others = [speeds[name] for name in speeds if name != "on"]
    ratios = [mine / max(theirs) for mine, *theirs in zip(speeds["on"], *others, strict=True)]
    to_off = [mine / off for mine, off in zip(speeds["on"], speeds["off"], strict=True)]
    ratio = statistics.median(ratios)
    texts = {name: [a.text for it in its for a in it.answers] for name, its in rounds.items()}
    same = sum(len(set(each)) == 1 for each in zip(*texts.values(), strict=True))
    shown = " ".join(f"{statistics.median(its):8.1f}" for its in speeds.values())
    verdict = "ok" if ratio >= GATE else "SLOWER"
    return (
        f"{kind:15} {clients:7} {shown} {statistics.median(to_off):7.2f} {ratio:6.2f} "
        f"({min(ratios):.2f}-{max(ratios):.2f}) {verdict:6} {same / len(texts['on']):5.0%}"
    )


def main() -> None:
    options = _options()
    run_bench("never_slower", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    folder = resolve(options.model, download=False)
    prompts = Prompts(texts_of(options.prompts) if options.prompts else None)
    print(report.machine_line(report.machine()))
    print(
        f"temperature {options.temperature}, {options.max_tokens} tokens, prompts of "
        f"{(options.prompts and options.prompts.name) or 'the bench'} {prompts.digest()}"
    )
    with contextlib.ExitStack() as stack:
        contenders = _contenders(stack, folder, options.fixed)
        names = " ".join(f"{name:>8}" for name in contenders)
        print(f"\n{'kind':15} clients {names}  on/off on/best  (least-most)       same", flush=True)
        bench = Bench(contenders, prompts, options)
        for kind in options.kinds or prompts.kinds:
            for clients in options.concurrency:
                print(line(kind, clients, bench.cell(kind, clients)), flush=True)


def _contenders(
    stack: contextlib.ExitStack, folder: Path, lengths: Sequence[int]
) -> dict[str, Contender]:
    adaptive = stack.enter_context(our_server(folder, *ALIKE))
    plain = {"speculative": {"enabled": False}}
    found = {"off": Contender(adaptive, plain), "on": Contender(adaptive, {})}
    for length in lengths:
        flags = ("--fixed-draft", "--max-draft", str(length))
        server = stack.enter_context(our_server(folder, *ALIKE, *flags))
        found[f"fixed {length}"] = Contender(server, {})
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a stored name or a model folder")
    parser.add_argument(
        "--prompts", type=Path, help="JSON lines with category, and turns or prompt"
    )
    parser.add_argument("--kinds", nargs="+", help="of prompts; default all")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--fixed", nargs="+", type=int, default=[4], help="lengths; default 4")
    parser.add_argument("--repeats", type=int, help="counted rounds of each cell; default 4")
    parser.add_argument("--requests", type=int, default=1, help="of each client, in turn")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="1 client, 1 round, 24 tokens")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 4)
    if options.quick:
        options.concurrency, options.max_tokens = [1], 24
    return options


if __name__ == "__main__":
    main()
