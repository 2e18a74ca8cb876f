"""The command line: one file per verb.

Nothing here or at the top of a verb's file imports mlx, mlx_lm or litestar: `--help` answers at
once, and BLAS can still be loaded before mlx.
"""

import rich_click as click

from mlxspec import __version__
from mlxspec.cli import (
    bench,
    doctor,
    importing,
    key,
    launch,
    listing,
    load,
    ps,
    pull,
    rm,
    run,
    search,
    serve,
    show,
    stop,
    top,
)
from mlxspec.cli.failure import Verbs


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="mlxspec")
def cli() -> None:
    """Serve MLX language models, each sped up by lossless speculative decoding.

    First steps: `mlxspec pull demo`, then `mlxspec serve demo`.
    """


VERBS = (
    serve, ps, load, stop, search, run, launch, pull, importing, listing, show, rm, key,
    bench, top, doctor,
)  # fmt: skip

for verb in VERBS:
    cli.add_command(verb.command)


def main() -> None:
    """Run the command line and exit: 0 well, 1 error, 2 wrong usage."""
    cli(prog_name="mlxspec")
