"""`mlxspec list`: what could be served without a download."""

from typing import TYPE_CHECKING

import msgspec
import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from mlxspec.cli.size import readable

if TYPE_CHECKING:
    from mlxspec.model.store import StoredModel


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models on this machine."""
    from mlxspec.model.hub import cache_use
    from mlxspec.model.store import list_models

    models, hub = list_models(), cache_use()
    if as_json:
        click.echo(msgspec.json.encode(models))
    elif not models:
        click.echo("no models here yet: mlxspec pull demo")
    else:
        Console().print(_table(models))
    if hub.num_repos and not as_json:
        size = readable(hub.num_bytes)
        click.echo(f"hugging face cache: {size} in {hub.num_repos} repositories, {hub.folder}")


def _table(models: "list[StoredModel]") -> Table:
    table = Table("name", "type", "weights", "size", "context", "from", box=box.SIMPLE_HEAD)
    for model in models:
        context = "" if model.context_length is None else str(model.context_length)
        size = readable(model.num_bytes)
        table.add_row(model.name, model.model_type, model.dtype, size, context, model.origin)
    return table
