"""`mlxspec key`: make, list and revoke API keys."""

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from mlxspec.config import default_key_file
from mlxspec.errors import ConfigError

if TYPE_CHECKING:
    from mlxspec.api.access.key import ApiKey

_SECONDS: Final = {"h": 3600, "d": 86400, "w": 604800}
_COUNT: Final = click.IntRange(min=1)

file_option = click.option(
    "--key-file", "path", type=click.Path(path_type=Path), default=None,
    help="Where the keys are.  [default: ~/.config/mlxspec/keys.json]",
)  # fmt: skip


class Lifetime(click.ParamType[int]):
    """A time such as `90d`, in seconds."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Seconds in the text."""
        match = re.fullmatch(r"([1-9]\d{0,5})([hdw])", value)
        if match is None:
            self.fail(f"{value!r} is not a time: write one such as 12h, 90d or 52w", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


@click.group("key")
def command() -> None:
    """Make, list and revoke the API keys of a server; a running one follows within a second."""


@command.command("create")
@click.argument("label")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(["infer", "admin", "metrics"]),
    help="What the key may do, once each.  [default: infer]",
)  # fmt: skip
@click.option("--expires", type=Lifetime(), help="How long it lasts, such as 90d.  [default: ever]")
@click.option("--max-concurrent", type=_COUNT, help="Requests that may run at once.")
@click.option("--requests-per-minute", type=_COUNT, help="Requests that may start in a minute.")
@file_option
def create(
    label: str, scopes: tuple[str, ...], expires: int | None, path: Path | None, **limits: Any
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from mlxspec.api.access.key import ApiKey
    from mlxspec.api.access.key_file import KeyFile

    file = KeyFile(path or default_key_file())
    keys = file.read() if file.path.exists() else ()
    until = None if expires is None else int(time.time()) + expires
    key, text = ApiKey.create(label, scopes or ("infer",), expires=until, **limits)  # type: ignore[arg-type]
    file.write((*keys, key))
    click.echo(text)
    click.echo(f"key {key.id} is kept as a hash in {file.path}: write it down now", err=True)


@command.command("list")
@file_option
def list_keys(path: Path | None) -> None:
    """List the keys, without their text."""
    from mlxspec.api.access.key_file import KeyFile

    file = KeyFile(path or default_key_file())
    keys = file.read() if file.path.exists() else ()
    if not keys:
        click.echo("no keys here yet: mlxspec key create LABEL")
    else:
        Console().print(_table(keys))


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@file_option
def revoke(key_id: str, path: Path | None) -> None:
    """Take a key out of force; its id is in the list."""
    from mlxspec.api.access.key_file import KeyFile

    file = KeyFile(path or default_key_file())
    keys = file.read()
    left = tuple(key for key in keys if key.id != key_id)
    if len(left) == len(keys):
        raise ConfigError(f"no key {key_id!r} in {file.path}: 'mlxspec key list' shows them")
    file.write(left)
    click.echo(f"revoked {key_id}; keys left: {len(left)}")


def _table(keys: "tuple[ApiKey, ...]") -> Table:
    table = Table("id", "label", "scopes", "expires", "at once", "a minute", box=box.SIMPLE_HEAD)
    for key in keys:
        limits = (key.max_concurrent, key.requests_per_minute)
        shown = ("" if limit is None else str(limit) for limit in limits)
        table.add_row(key.id, key.label, " ".join(key.scopes), _expiry(key), *shown)
    return table


def _expiry(key: "ApiKey") -> str:
    if key.expires is None:
        return "never"
    day = datetime.fromtimestamp(key.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{day} (over)" if key.expired(time.time()) else day
