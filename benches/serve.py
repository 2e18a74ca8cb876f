"""What a client sees: mlxspec with and without speculation beside mlx_lm.server, interleaved.

    python benches/serve.py                             # the demo model, every cell
    python benches/serve.py --kinds copy --concurrency 1 4
    python benches/serve.py --quick                     # a try of the bench, not a measurement

Starts both servers on loopback with the same model folder and the same BLAS, keeps both up, and
lets one work at a time. benches/README.md says what each figure means.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from mlxspec.model.store import resolve
from serving import report
from serving.client import Question, ask_together
from serving.failure import BenchError, run_bench
from serving.figures import CONTENDERS, OFF, ON, PEER, Cell, Round
from serving.prompts import KINDS, Kind, Messages, Prompts
from serving.servers import Server, both_servers

MAX_TOKENS: dict[Kind, int] = {"chat": 64, "copy": 96, "edit": 96}
CODE_ENDS: dict[str, Any] = {"stop": "\n```"}
"""Code is asked for, and the answer ends with it: what a small model says after it is chat."""

NO_SPECULATION: dict[str, Any] = {"speculative": {"enabled": False}, "cache_salt": "off"}
"""With a salt of its own: both of our contenders are asked the same, and would share their KV."""


class Bench(Struct, frozen=True):
    """Running servers, and what to ask them."""

    servers: dict[str, Server]
    prompts: Prompts
    options: argparse.Namespace

    def warm_up(self) -> None:
        """Every kind once at the most clients, by every contender; not counted."""
        for kind in self.options.kinds:
            self._rounds(kind, max(self.options.concurrency))

    def cell(self, kind: Kind, clients: int) -> Cell:
        """Measure one cell: the contenders in turn, as often as wanted."""
        rounds: dict[str, list[Round]] = {contender: [] for contender in CONTENDERS}
        for nth in range(self.options.repeats):
            for contender, measured in self._rounds(kind, clients, nth).items():
                rounds[contender].append(measured)
        return Cell(kind, clients, rounds)

    def _rounds(self, kind: Kind, clients: int, nth: int = 0) -> dict[str, Round]:
        """One round of each contender, with the same fresh prompts; every other one backwards.

        Who follows the other server finds the caches cold: our two contenders share one, and so
        take turns at that.
        """
        asked = self.prompts.take(kind, clients, self.options.requests)
        order = CONTENDERS if nth % 2 == 0 else CONTENDERS[::-1]
        return {contender: self._round(contender, kind, asked) for contender in order}

    def _round(self, contender: str, kind: Kind, asked: list[list[Messages]]) -> Round:
        server = self.servers[PEER if contender == PEER else ON]
        extra = (NO_SPECULATION if contender == OFF else {}) | ({} if kind == "chat" else CODE_ENDS)
        max_tokens = self.options.max_tokens or MAX_TOKENS[kind]
        questions = [
            [Question.of(server.port, server.model, each, max_tokens, extra) for each in client]
            for client in asked
        ]
        started = time.process_time()
        try:
            answers = ask_together(questions)
        except BenchError as error:
            where = f"{contender}, {kind}, {len(asked)} clients"
            raise BenchError(f"{where}: {error}\n{server.log_tail()}") from None
        return Round.of(answers, time.process_time() - started)


def main() -> None:
    options = _options()
    run_bench("serve", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    facts, prompts = report.machine(), Prompts()
    print(report.machine_line(facts))
    settings = {**vars(options), "json": None, "prompts": prompts.digest()}
    print(", ".join(f"{k} {v}" for k, v in settings.items() if v is not None), flush=True)
    cells = []
    with both_servers(resolve(options.model, download=False)) as servers:
        bench = Bench(servers, prompts, options)
        bench.warm_up()
        print(f"\n{report.header()}", flush=True)
        for kind in options.kinds:
            for clients in options.concurrency:
                cells.append(bench.cell(kind, clients))
                print(report.cell_lines(cells[-1]), flush=True)
    print(f"\n{report.ratio_lines(cells)}")
    for warning in report.count_warnings(cells):
        print(warning)
    if options.json:
        report.write_json(options.json, facts, settings, cells)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a stored name or a model folder")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--concurrency", nargs="+", type=_count, metavar="CLIENTS")
    parser.add_argument("--repeats", type=_count, help="counted rounds of each cell; default 3")
    parser.add_argument("--requests", type=_count, default=1, help="of each client, in turn")
    parser.add_argument("--max-tokens", type=_count, help="default: 64 for chat, 96 for code")
    parser.add_argument("--quick", action="store_true", help="1 and 4 clients, 1 round, 48 tokens")
    parser.add_argument("--json", type=Path, help="where to write the raw values")
    options = parser.parse_args()
    options.concurrency = options.concurrency or ([1, 4] if options.quick else [1, 4, 8, 16])
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.max_tokens = options.max_tokens or (48 if options.quick else None)
    return options


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


if __name__ == "__main__":
    main()
