"""`mlxspec rm`: delete a model from the store."""

import rich_click as click

from mlxspec.cli.size import readable


@click.command("rm")
@click.argument("name")
def command(name: str) -> None:
    """Delete a model from mlxspec's store."""
    from mlxspec.model.store import remove

    click.echo(f"removed {name}, {readable(remove(name))} freed")
