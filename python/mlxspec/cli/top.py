"""`mlxspec top`: what a server is doing, second by second."""

import time
from collections.abc import Mapping
from contextlib import suppress
from itertools import count

import rich_click as click
from rich import box
from rich.live import Live
from rich.table import Table

from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL
from mlxspec.cli.size import readable

Samples = Mapping[str, float]


@click.command("top")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server to watch.")
@click.option("--api-key", "key", help="A key with the scope metrics.")
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True)
@click.option("--times", type=click.IntRange(1), help="End after so many looks.  [default: never]")
def command(url: str, key: str | None, interval: float, times: int | None) -> None:
    """Watch a server: requests, tokens, speculation, memory. Ctrl-C ends."""
    client = Client(url, key)
    before, at = parse(client.metrics()), time.monotonic()
    with suppress(KeyboardInterrupt), Live(auto_refresh=False) as live:
        for look in count(1):
            time.sleep(interval)
            now, seconds = parse(client.metrics()), time.monotonic() - at
            live.update(_table(url, now, rates(before, now, seconds)), refresh=True)
            before, at = now, at + seconds
            if look == times:
                break


def parse(text: str) -> dict[str, float]:
    """Samples of a Prometheus text by name; those with labels are summed up."""
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0].removeprefix("mlxspec:")
            samples[name] = samples.get(name, 0.0) + float(value)
    return samples


def rates(before: Samples, now: Samples, seconds: float) -> dict[str, float]:
    """How much each sample grew in a second; a server that has restarted counts from zero."""
    grown = {name: value - before.get(name, 0.0) for name, value in now.items()}
    return {name: (by if by >= 0 else now[name]) / seconds for name, by in grown.items()}


def _table(url: str, now: Samples, rate: Samples) -> Table:
    table = Table(title=url, box=box.SIMPLE_HEAD, show_header=False)
    for name, value in _rows(now, rate):
        table.add_row(name, value)
    return table


def _rows(now: Samples, rate: Samples) -> list[tuple[str, str]]:
    def total(name: str) -> float:
        return now.get(name, 0.0)

    def each_second(name: str) -> float:
        return rate.get(name, 0.0)

    drafted = each_second("spec_decode_num_draft_tokens_total")
    kept = each_second("spec_decode_num_accepted_tokens_total")
    ended = each_second("time_to_first_token_seconds_count")
    first = each_second("time_to_first_token_seconds_sum")
    blocks = total("kv_blocks_total")
    return [
        ("running", f"{total('requests_running'):.0f}"),
        ("waiting", f"{total('requests_waiting'):.0f}"),
        ("tokens out / s", f"{each_second('generated_tokens_total'):.1f}"),
        ("tokens in / s", f"{each_second('prompt_tokens_total'):.1f}"),
        ("steps / s", f"{each_second('steps_total'):.1f}"),
        ("first token", f"{1000 * first / ended:.0f} ms" if ended else "-"),
        ("drafts kept", f"{kept / drafted:.0%} of {drafted:.0f} / s" if drafted else "-"),
        ("KV in use", f"{total('kv_blocks_used') / blocks:.0%}" if blocks else "-"),
        ("memory", readable(int(total("process_resident_memory_bytes")))),
        ("refused", f"{total('requests_rejected_total'):.0f}"),
        ("failed", f"{total('requests_failed_total'):.0f}"),
    ]
