"""`mlxspec launch`: start a client that uses a server."""

import shlex
import shutil
import subprocess
import sys

import rich_click as click

from mlxspec.cli.client import Client, ServedModel
from mlxspec.cli.clients import CLIENTS, Launch, Server
from mlxspec.cli.local_server import DEFAULT_URL, server_for
from mlxspec.cli.settings_file import as_text, write_settings
from mlxspec.errors import ConfigError


@click.command("launch", context_settings={"ignore_unknown_options": True})
@click.argument("client", type=click.Choice(sorted(CLIENTS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--model", help="Which model it uses.  [default: the only one]")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="A server that may run there.")
@click.option("--api-key", "key", help="The server's key.")
@click.option("--print", "only_print", is_flag=True, help="Show how, and start nothing.")
def command(
    *,
    client: str,
    arguments: tuple[str, ...],
    model: str | None,
    url: str,
    key: str | None,
    only_print: bool,
) -> None:
    """Start CLIENT with a server of this machine: the one at --url, or one started for it.

    ARGUMENTS go to the client.
    """
    if only_print:
        _show(CLIENTS[client](_server(Client(url, key), model, key)), arguments)
        return
    with server_for(url, key, model) as found:
        launch = CLIENTS[client](_server(found, model, key))
        if shutil.which(launch.command[0]) is None:
            raise ConfigError(f"{launch.command[0]} is not installed: {launch.install}")
        if launch.settings is not None:
            write_settings(launch.settings)
        sys.exit(_run(_command_line(launch, arguments)))


def _server(client: Client, model: str | None, key: str | None) -> Server:
    """What there is to know of the server; where none runs, only what the user said."""
    served = client.model(model) if client.is_ready() else ServedModel(id=model or "MODEL")
    return Server(client.url, served.id, served.context_length, key or "unused")


def _command_line(launch: Launch, arguments: tuple[str, ...]) -> list[str]:
    """The variables and the command, as a shell would take them."""
    variables = [f"{name}={value}" for name, value in launch.env.items()]
    return ["env", *variables, *launch.command, *arguments]


def _show(launch: Launch, arguments: tuple[str, ...]) -> None:
    if launch.settings is not None:
        click.echo(f"# {'in' if launch.settings.shared else 'as'} {launch.settings.path}:")
        click.echo(as_text(launch.settings.content))
    click.echo(shlex.join(_command_line(launch, arguments)))


def _run(command_line: list[str]) -> int:
    """The client's exit code. Ctrl-C is the client's: it hears it as we do."""
    process = subprocess.Popen(command_line)  # noqa: S603 - what the user wants started
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
