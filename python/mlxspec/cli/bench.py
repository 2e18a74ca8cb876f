"""`mlxspec bench`: what speculation is worth here, measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.table import Table

from mlxspec.cli import bench_prompts
from mlxspec.cli.ab import Pair, Verdict, compare
from mlxspec.cli.local_server import DEFAULT_URL, server_for


@click.command("bench")
@click.argument("model", required=False)
@click.option("--ab", is_flag=True, required=True, help="Speculation on against off.")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="A server that may run there.")
@click.option("--api-key", "key", help="The server's key.")
@click.option("--prompts", type=click.Path(path_type=Path), help="A JSON Lines file of requests.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str | None,
    *,
    ab: bool,
    url: str,
    key: str | None,
    prompts: Path | None,
    rounds: int,
    as_json: bool,
    **fields: Any,
) -> None:
    """Ask MODEL the same with speculation on and off: at --url, or of a server started for this.

    Texts are compared, times measured by this client, one request at a time.
    """
    asked = bench_prompts.read(prompts) if prompts else bench_prompts.built_in()
    with server_for(url, key, model) as client:
        name = client.model(model).id
        pairs = []
        with Console(stderr=True).status("") as status:
            for pair in compare(client, asked, {"model": name, **fields}, rounds):
                pairs.append(pair)
                status.update(f"{len(pairs)} of {rounds * len(asked)} pairs")
    if as_json:
        click.echo(msgspec.json.encode(_report(name, pairs)))
    else:
        _show(pairs, [messages[-1]["content"] for messages in asked])


def _report(model: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    return {"model": model, "verdict": Verdict.of(pairs), "prompts": _by_prompt(pairs)}


def _by_prompt(pairs: Sequence[Pair]) -> list[Verdict]:
    prompts = sorted({pair.prompt for pair in pairs})
    return [Verdict.of([it for it in pairs if it.prompt == prompt]) for prompt in prompts]


def _show(pairs: Sequence[Pair], titles: Sequence[str]) -> None:
    table = Table("prompt", "same text", "off", "on", "speedup", "decoding", "drafts kept")
    for title, verdict in zip(titles, _by_prompt(pairs), strict=True):
        table.add_row(" ".join(title.split())[:40], *_cells(verdict))
    table.add_section()
    total = Verdict.of(pairs)
    table.add_row("all", *_cells(total))
    console = Console()
    console.print(table)
    console.print(_sentence(total))


def _cells(verdict: Verdict) -> list[str]:
    return [
        f"{verdict.identical}/{verdict.pairs}",
        f"{verdict.seconds_off:.2f} s",
        f"{verdict.seconds_on:.2f} s",
        _times(verdict.speedup),
        _times(verdict.decode_speedup),
        f"{verdict.accepted_draft_tokens}/{verdict.draft_tokens}",
    ]


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _sentence(total: Verdict) -> str:
    same = (
        "every text is the same with speculation on and off"
        if total.identical == total.pairs
        else f"{total.pairs - total.identical} of {total.pairs} texts differ: near-ties in 16 bit, "
        "a bug in float32"
    )
    return f"{same}; speedup {_times(total.speedup)}, decoding alone {_times(total.decode_speedup)}"
