"""`mlxspec search`: find models of a running server, or of the hub."""

from typing import TYPE_CHECKING
from urllib.parse import urlencode

import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from mlxspec.cli import ps
from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL

if TYPE_CHECKING:
    from mlxspec.model.hub_search import HubModel


@click.command("search")
@click.argument("text", default="")
@click.option("--tag", default="", help="Only models with this tag.")
@click.option("--type", default="", help="Only models of this type, such as llama.")
@click.option("--hub", "on_hub", is_flag=True, help="Search the Hugging Face hub for MLX models.")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="With --hub."
)
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option("--api-key", "key", help="The server's key.")
def command(text: str, on_hub: bool, limit: int, url: str, key: str | None, **where: str) -> None:
    """Find the models of a running server whose id, alias or description has TEXT.

    With --hub, models that 'mlxspec pull' can fetch.
    """
    if on_hub:
        _search_hub(text, limit)
        return
    query = urlencode({"q": text, **where})
    found = Client(url, key).get(f"/models/search?{query}")["data"]
    if found:
        Console().print(ps.table(found))
    else:
        click.echo("no model matches: 'mlxspec ps --all' shows all")


def _search_hub(text: str, limit: int) -> None:
    from mlxspec.model.hub_search import search

    found = search(text, limit)
    if found:
        Console().print(_hub_table(found))
    else:
        click.echo("the hub has no MLX model of that name: try fewer words")


def _hub_table(models: "list[HubModel]") -> Table:
    table = Table("name", "downloads", "likes", "", box=box.SIMPLE_HEAD)
    for model in models:
        note = "here" if model.here else "gated" if model.gated else ""
        table.add_row(model.id, f"{model.downloads:,}", f"{model.likes:,}", note)
    return table
