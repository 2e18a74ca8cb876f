"""`mlxspec stop`: let a model of a running server go."""

import rich_click as click

from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL


@click.command("stop")
@click.argument("model")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option("--api-key", "key", help="The server's key.")
def command(model: str, url: str, key: str | None) -> None:
    """Unload a model from a running server, once its running requests have ended.

    The next request for it loads it again.
    """
    client = Client(url, key)
    stopped = client.post("/models/unload", {"model": model, "wait": True})["model"]
    click.echo(f"stopped {stopped['id']}")
