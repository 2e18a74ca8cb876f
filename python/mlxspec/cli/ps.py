"""`mlxspec ps`: what a running server has in memory."""

from collections.abc import Sequence
from typing import Any

import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL
from mlxspec.cli.size import readable

Model = dict[str, Any]


@click.command("ps")
@click.option("--all", "everything", is_flag=True, help="Models that are not in memory, too.")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option("--api-key", "key", help="The server's key.")
def command(everything: bool, url: str, key: str | None) -> None:
    """Show the models in a running server's memory."""
    models: list[Model] = Client(url, key).get("/models")["data"]
    shown = [it for it in models if everything or it["status"]["value"] != "unloaded"]
    if not shown:
        click.echo(f"no model is in memory: mlxspec load {models[0]['id'] if models else 'MODEL'}")
        return
    Console().print(table(shown))


def table(models: Sequence[Model]) -> Table:
    """Models of a server, one a row."""
    columns = ("model", "type", "state", "memory", "running", "waiting", "until", "tags")
    shown = Table(*columns, box=box.SIMPLE_HEAD)
    for model in models:
        meta = model["meta"]
        shown.add_row(
            model["id"],
            model["type"],
            model["status"]["phase"],
            readable(meta["memory"]),
            str(meta["running"]),
            str(meta["waiting"]),
            _until(model),
            ", ".join(model["tags"]),
        )
    return shown


def _until(model: Model) -> str:
    """How long the model stays."""
    if model["pinned"]:
        return "pinned"
    left = model["meta"]["expires_in"]
    return "" if left is None else f"{left:.0f} s"
