"""`mlxspec import`: convert a GGUF file into a model of the store."""

from pathlib import Path

import rich_click as click

from mlxspec.model.backend import WeightDtype


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.gguf")
@click.option("--name", help="Name in the store.  [default: the file's name]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Type of the weights.  [default: float32 on cpu, else bfloat16]",
)
def command(file: Path, name: str | None, dtype: WeightDtype | None) -> None:
    """Convert a llama-architecture GGUF file into the store."""
    from mlxspec.cli.progress import shown
    from mlxspec.model.backend import prepare
    from mlxspec.model.store import place

    name = name or file.stem
    target = place(name)
    stored_as = dtype or prepare().facts.weight_dtype
    from mlxspec.model.gguf import import_gguf

    with shown() as progress:
        folder = import_gguf(file, target, stored_as, progress)
    click.echo(f"imported {folder} ({stored_as})\nserve it: mlxspec serve {name}")
