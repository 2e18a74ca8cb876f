"""`mlxspec pull`: get a model onto this machine."""

import rich_click as click


@click.command("pull")
@click.argument("model", metavar="demo|minilm|HF_ID")
def command(model: str) -> None:
    """Download the demo model, an embedding model, or one of the Hugging Face hub (owner/name)."""
    from mlxspec.model.store import DEMO, MINILM

    if model == DEMO:
        _pull_demo()
    elif model == MINILM:
        _pull_minilm()
    else:
        _pull_from_hub(model)
    click.echo(f"serve it: mlxspec serve {model}")


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
