"""`mlxspec launch`: how each client is pointed at a server, and that it is started so."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stub_server import StubServer, stub_server

from mlxspec.cli import cli
from mlxspec.cli.clients import CLIENTS, Server, Settings
from mlxspec.cli.settings_file import write_settings
from mlxspec.errors import ConfigError

SERVER = Server("http://127.0.0.1:9", "demo", 4096, "secret")


@pytest.fixture
def server() -> Iterator[StubServer]:
    with stub_server() as server:
        yield server


def launch(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["launch", *arguments])


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_is_told_the_server_the_model_and_the_key(client: str) -> None:
    launch = CLIENTS[client](SERVER)
    told = json.dumps([launch.command, dict(launch.env)])
    if launch.settings:
        told += json.dumps(launch.settings.content)
    assert SERVER.url in told
    assert "secret" in told
    assert "demo" in told or client == "openwebui"


@pytest.mark.parametrize("client", CLIENTS)
def test_print_shows_a_command_line_and_writes_nothing(
    client: str, server: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLXSPEC_HOME", str(tmp_path))
    done = launch(client, "--print", "--url", server.url)
    assert done.exit_code == 0, done.stderr
    assert server.url in done.stdout
    assert done.stdout.splitlines()[-1].startswith("env ")
    assert list(tmp_path.iterdir()) == []


def test_print_needs_no_server() -> None:
    assert "--model MODEL" in launch("claude", "--print", "--url", "http://127.0.0.1:9").stdout


def test_the_client_is_started_with_its_variables_and_arguments(
    server: StubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    program = tmp_path / "claude"
    program.write_text('#!/bin/sh\necho "$ANTHROPIC_BASE_URL $ANTHROPIC_AUTH_TOKEN $@"\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    done = launch("claude", "--url", server.url, "--api-key", "secret", "--", "--print", "hi")
    assert done.exit_code == 3
    assert capfd.readouterr().out == f"{server.url} secret --model demo --print hi\n"


def test_a_missing_client_says_how_to_get_it(
    server: StubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = launch("codex", "--url", server.url)
    assert done.exit_code == 1
    assert "npm install -g @openai/codex" in done.stderr


def test_shared_settings_are_added_to_and_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"theme": "One", "language_models": {"ollama": {}}}')
    added = {"language_models": {"openai_compatible": {"mlxspec": {"api_url": "u"}}}}
    write_settings(Settings(path, added, shared=True))
    assert json.loads(path.read_text()) == {
        "theme": "One",
        "language_models": {"ollama": {}, "openai_compatible": {"mlxspec": {"api_url": "u"}}},
    }
    kept = tmp_path / "settings.before-mlxspec.json"
    assert json.loads(kept.read_text())["language_models"] == {"ollama": {}}
    kept.unlink()
    write_settings(Settings(path, added, shared=True))
    assert not kept.exists(), "nothing was new, yet the file was written again"


def test_settings_with_comments_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{\n  // mine\n  "theme": "One"\n}')
    with pytest.raises(ConfigError, match="by hand"):
        write_settings(Settings(path, {"a": 1}, shared=True))
    assert "// mine" in path.read_text()
