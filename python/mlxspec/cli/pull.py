"""`mlxspec pull`: get a model onto this machine."""

import rich_click as click


@click.command("pull")
@click.argument("model", metavar="demo|minilm|HF_ID|FOLDER")
@click.option("--quantize", type=click.Choice(["4", "8"]), help="Keep a copy in so many bits.")
@click.option(
    "--group-size",
    type=click.Choice(["32", "64", "128"]),
    default="64",
    show_default=True,
    help="Weights that share a scale, with --quantize.",
)
def command(model: str, quantize: str | None, group_size: str) -> None:
    """Download the demo model, an embedding model, or one of the Hugging Face hub (owner/name).

    With --quantize, put a quantised copy of it, or of a model folder, into mlxspec's store.
    """
    from mlxspec.model.store import is_path

    if not (quantize and is_path(model)):
        _pull(model)
    if quantize:
        model = _quantise(model, int(quantize), int(group_size))
    click.echo(f"serve it: mlxspec serve {model}")


def _quantise(source: str, bits: int, group_size: int) -> str:
    """Put a quantised copy into the store; returns its name."""
    from mlxspec.cli.size import readable
    from mlxspec.model.backend import prepare
    from mlxspec.model.store import model_id, place, resolve

    folder, name = resolve(source, download=False), f"{model_id(source)}-{bits}bit"
    prepare()
    from mlxspec.model.quantise import quantise

    made = quantise(folder, place(name), bits, group_size)
    before, after = (
        sum(it.stat().st_size for it in at.glob("*.safetensors")) for at in (folder, made)
    )
    click.echo(f"quantised {made} ({bits}-bit, {readable(before)} -> {readable(after)})")
    return name


def _pull(model: str) -> None:
    from mlxspec.model.store import DEMO, MINILM

    if model == DEMO:
        _pull_demo()
    elif model == MINILM:
        _pull_minilm()
    else:
        _pull_from_hub(model)


def _pull_demo() -> None:
    from mlxspec.cli.progress import shown
    from mlxspec.model.backend import prepare
    from mlxspec.model.folder import is_whole
    from mlxspec.model.store import DEMO, place

    if is_whole(place(DEMO)):
        click.echo(f"the demo model is here already: {place(DEMO)}")
        return
    dtype = prepare().facts.weight_dtype
    from mlxspec.model.demo import pull_demo

    with shown() as progress:
        folder = pull_demo(dtype, progress)
    click.echo(f"pulled {folder} ({dtype})")


def _pull_minilm() -> None:
    from mlxspec.cli.progress import shown
    from mlxspec.model.minilm import pull_minilm

    with shown() as progress:
        folder = pull_minilm(progress)
    click.echo(f"pulled {folder}")


def _pull_from_hub(hub_id: str) -> None:
    from mlxspec.model.folder_check import check_folder
    from mlxspec.model.hub import pull

    folder = pull(hub_id)
    check_folder(folder)
    click.echo(f"pulled {folder}")
