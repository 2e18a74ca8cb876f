"""`mlxspec rm`: delete a model from the store."""

import rich_click as click

from mlxspec.cli.size import readable


@click.command("rm")
@click.argument("name")
@click.option("--hub", "from_hub", is_flag=True, help="Delete it from the Hugging Face cache.")
def command(name: str, from_hub: bool) -> None:
    """Delete a model from mlxspec's store, or from the cache that it shares with other programs."""
    from mlxspec.model import hub
    from mlxspec.model.store import remove as remove_stored

    remove = hub.remove if from_hub else remove_stored
    click.echo(f"removed {name}, {readable(remove(name))} freed")
