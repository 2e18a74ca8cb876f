"""`mlxspec key`: what is printed once, what is kept, what is taken back."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlxspec.api.access.key import digest
from mlxspec.api.access.key_file import KeyFile
from mlxspec.cli import cli


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "mlxspec" / "keys.json"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["key", *arguments])


def test_a_key_is_shown_once_and_kept_as_a_hash(home: Path) -> None:
    made = run("create", "laptop", "--expires", "90d", "--requests-per-minute", "60")
    text = made.stdout.strip()
    (key,) = KeyFile(home).read()
    assert key.sha256 == digest(text)
    assert (key.scopes, key.requests_per_minute) == (("infer",), 60)
    assert key.expires == key.created + 90 * 86400
    assert text not in home.read_text()
    listed = run("list").stdout
    assert key.id in listed
    assert "laptop" in listed
    assert text not in listed


def test_a_revoked_key_is_gone_and_the_others_stay(home: Path) -> None:
    run("create", "one")
    run("create", "two", "--scope", "admin", "--scope", "metrics")
    one, two = KeyFile(home).read()
    assert run("revoke", one.id).exit_code == 0
    assert KeyFile(home).read() == (two,)
    assert two.scopes == ("admin", "metrics")
    again = run("revoke", one.id)
    assert again.exit_code == 1
    assert "mlxspec key list" in again.stderr


def test_without_keys_the_next_command_is_named() -> None:
    assert "mlxspec key create" in run("list").stdout


@pytest.mark.parametrize("time", ["", "0d", "90", "d", "-1h", "9999999d"])
def test_what_is_not_a_time_is_wrong_usage(time: str) -> None:
    assert run("create", "x", "--expires", time).exit_code == 2
