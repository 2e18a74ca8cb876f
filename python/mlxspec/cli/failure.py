"""Errors a user can meet end in one red line and exit code 1, never in a traceback."""

from typing import Any

import rich_click as click

from mlxspec.errors import MlxspecError


class Verbs(click.RichGroup):
    """The group of all verbs; turns MlxspecError into a line on stderr."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; exit with 1 after an MlxspecError."""
        try:
            return super().invoke(ctx)
        except MlxspecError as error:
            click.secho(f"error: {error.message}", fg="red", err=True)
            ctx.exit(1)
