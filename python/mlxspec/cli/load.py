"""`mlxspec load`: bring a model into a running server's memory."""

import rich_click as click

from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL
from mlxspec.cli.size import readable


@click.command("load")
@click.argument("model")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option("--api-key", "key", help="The server's key.")
def command(model: str, url: str, key: str | None) -> None:
    """Load a model that a running server is configured with, and wait until it is there."""
    loaded = Client(url, key).post("/models/load", {"model": model, "wait": True})["model"]
    click.echo(f"loaded {loaded['id']}, {readable(loaded['meta']['memory'])}")
