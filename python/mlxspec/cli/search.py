"""`mlxspec search`: find models of a running server."""

from urllib.parse import urlencode

import rich_click as click
from rich.console import Console

from mlxspec.cli import ps
from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL


@click.command("search")
@click.argument("text", default="")
@click.option("--tag", default="", help="Only models with this tag.")
@click.option("--type", "kind", default="", help="Only models of this type, such as llama.")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option("--api-key", "key", help="The server's key.")
def command(text: str, tag: str, kind: str, url: str, key: str | None) -> None:
    """Find the models of a running server whose id, alias or description has TEXT."""
    query = urlencode({"q": text, "tag": tag, "type": kind})
    found = Client(url, key).get(f"/models/search?{query}")["data"]
    if found:
        Console().print(ps.table(found))
    else:
        click.echo("no model matches: 'mlxspec ps --all' shows all")
