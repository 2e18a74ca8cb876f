"""What the prefix cache saves, what a long prompt costs the others, and whether memory stays flat.

    python benches/prefix.py                            # all three, the demo model
    python benches/prefix.py --parts turns --repeats 5
    python benches/prefix.py --quick                    # a try of the bench, not a measurement

turns: time to first text of turns 2 to 10 of a chat that opens with a long system prompt, ours and
    mlx_lm.server's, which has a prompt cache too.
beside: eight short chats alone, and beside one long prompt; gaps between their pieces of text.
flat: resident memory of our server over many short requests that share nothing; it grows until the
    cache has filled the KV memory, and stays there.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlxspec.model.store import resolve
from serving import report
from serving.client import Answer, Question, ask_together
from serving.failure import run_bench
from serving.figures import ON, PEER, percentile
from serving.memory import resident_mib
from serving.prompts import Messages, Prompts
from serving.servers import Server, both_servers

PARTS: Final = ("turns", "beside", "flat")
RULE: Final = "Rule {:05}: answer in one short sentence, and be kind to whoever asks. "
TOKENS_OF_RULE: Final = 20
NUM_TURNS: Final = 10
SHORT_CHATS: Final = 8
SHORT_TOKENS: Final = 128
"""Of each short chat's answer: so many that the slowest step alone is less than 1% of all gaps."""


class Bench:
    """Running servers, and what to ask them."""

    def __init__(self, servers: dict[str, Server], options: argparse.Namespace) -> None:
        self._servers = servers
        self._options = options
        self._prompts = Prompts()
        self._rules = 0

    def turns(self) -> Iterator[str]:
        """The median time to first text of each turn, in milliseconds, by server."""
        times: dict[str, list[list[float]]] = {ON: [], PEER: []}
        for _ in range(self._options.repeats):
            system = self._long_text(self._options.system_tokens)
            for name, measured in times.items():
                measured.append([_ttft_ms(it) for it in self._chat(self._servers[name], system)])
        for name, measured in times.items():
            medians = [statistics.median(turn) for turn in zip(*measured, strict=True)]
            later = statistics.median(medians[1:])
            shown = " ".join(f"{ms:7.0f}" for ms in medians)
            yield f"turns   {name:8} ttft ms {shown}   turns 2-{NUM_TURNS}: {later:.0f}"

    def _chat(self, server: Server, system: str) -> Iterator[Answer]:
        messages: Messages = [{"role": "system", "content": system}]
        for at in range(NUM_TURNS):
            messages.append({"role": "user", "content": f"Question {at}: name one more colour."})
            [answer] = ask_together([[self._question(server, messages, 16)]])
            messages.append({"role": "assistant", "content": answer.text})
            yield answer

    def beside(self) -> Iterator[str]:
        """Gaps between the pieces of eight short chats, with and without a long prompt beside."""
        for name, server in self._servers.items():
            gaps: dict[str, list[float]] = {"alone": [], "beside": []}
            for _ in range(self._options.repeats):
                for where, found in gaps.items():
                    found.extend(self._short_gaps(server, with_long=where == "beside"))
            p99 = {where: percentile(found, 0.99) for where, found in gaps.items()}
            ratio = p99["beside"] / p99["alone"]
            shown = "  ".join(f"{where} {ms:.0f} ms" for where, ms in p99.items())
            yield f"beside  {name:8} gap p99  {shown}  ratio {ratio:.2f}"

    def _short_gaps(self, server: Server, *, with_long: bool) -> list[float]:
        short = [
            [self._question(server, messages, SHORT_TOKENS) for messages in client]
            for client in self._prompts.take("chat", SHORT_CHATS, 1)
        ]
        text = self._long_text(self._options.long_tokens)
        long = [self._question(server, [{"role": "user", "content": text}], 1)]
        answers = ask_together([*short, long] if with_long else short)[:SHORT_CHATS]
        pairs = [pair for it in answers for pair in zip(it.text_at, it.text_at[1:], strict=False)]
        return [1e3 * (later - earlier) for earlier, later in pairs]

    def flat(self) -> Iterator[str]:
        """Resident memory of our server, ten times on the way."""
        server, total = self._servers[ON], self._options.requests
        for done in range(0, total, max(1, total // 10)):
            batch = self._prompts.take("chat", SHORT_CHATS, max(1, total // 10 // SHORT_CHATS))
            asked = [[self._question(server, each, 8) for each in client] for client in batch]
            ask_together(asked)
            yield f"flat    {ON:8} after {done + sum(map(len, asked)):5} requests " + (
                f"{resident_mib(server.process.pid):7.0f} MiB"
            )

    def _question(self, server: Server, messages: Messages, max_tokens: int) -> Question:
        return Question.of(server.port, server.model, messages, max_tokens, {})

    def _long_text(self, num_tokens: int) -> str:
        """About so many tokens that no server has seen before."""
        first = self._rules
        self._rules += num_tokens // TOKENS_OF_RULE
        return "".join(RULE.format(number) for number in range(first, self._rules))


def _ttft_ms(answer: Answer) -> float:
    return 1e3 * (answer.text_at[0] - answer.sent_at)


def main() -> None:
    options = _options()
    run_bench("prefix", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    print(report.machine_line(report.machine()))
    print(", ".join(f"{name} {value}" for name, value in vars(options).items()), flush=True)
    flags = ("--kv-memory", options.kv_memory)
    with both_servers(Path(resolve(options.model, download=False)), *flags) as servers:
        bench = Bench(servers, options)
        for part in options.parts:
            for line in getattr(bench, part)():
                print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="a stored name or a model folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, help="of turns and beside; default 3")
    parser.add_argument("--system-tokens", type=int, help="of the system prompt; default 2000")
    parser.add_argument("--long-tokens", type=int, help="of the long prompt; default 6000")
    parser.add_argument("--kv-memory", help="of our server; default 1GiB")
    parser.add_argument("--requests", type=int, help="of flat; default 2000")
    parser.add_argument("--quick", action="store_true", help="small sizes, 1 round")
    options = parser.parse_args()
    defaults = {"repeats": 3, "system_tokens": 2000, "long_tokens": 6000, "requests": 2000}
    quick = {"repeats": 1, "system_tokens": 200, "long_tokens": 400, "requests": 160}
    options.kv_memory = options.kv_memory or ("64MiB" if options.quick else "1GiB")
    for name, value in (quick if options.quick else defaults).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
