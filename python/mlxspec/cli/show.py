"""`mlxspec show`: one model in detail."""

import msgspec
import rich_click as click

from mlxspec.cli.size import readable


@click.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(name: str, as_json: bool) -> None:
    """Check a model on this machine and say what it is."""
    from mlxspec.model.folder import Manifest
    from mlxspec.model.store import describe, resolve

    folder = resolve(name, download=False)
    model, manifest = describe(name, folder), Manifest.read(folder)
    if as_json:
        click.echo(msgspec.json.encode({"model": model, "manifest": manifest}))
        return
    click.echo(f"{model.name}: {model.model_type}, {model.dtype}, {readable(model.num_bytes)}")
    if model.context_length is not None:
        click.echo(f"  context  {model.context_length} tokens")
    click.echo(f"  folder   {model.path}")
    if manifest is not None:
        click.echo(f"  source   {manifest.source} (sha256 {manifest.source_sha256:.12})")
