"""Codex CLI as npm has it: how to get it, and one turn of it against a server.

Run as a program, in a network namespace of its own, it starts the server and takes both turns.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from mlxspec.cli.clients import Server, codex
from server_process import started

VERSION = "0.169.0"
PACKAGE = f"@openai/codex@{VERSION}"
NAMESPACE = ["unshare", "--map-root-user", "--net"]
TURN_SECONDS = 300

SCHEMA = {
    "type": "object",
    "properties": {"greeting": {"type": "string", "enum": ["hello"]}},
    "required": ["greeting"],
    "additionalProperties": False,
}
"""What the answer must be, so that a turn is short and its end is known."""


def fetch(folder: Path) -> Path:
    """Install Codex into `folder`; CalledProcessError says why npm could not."""
    npm = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", folder]
    subprocess.run([*npm, PACKAGE], check=True, capture_output=True, text=True)
    return folder / "node_modules" / ".bin" / "codex"


def session(binary: Path, folder: Path) -> dict[str, list[str]]:
    """Output lines of a turn as `mlxspec launch` sets Codex up, and of one with its `--oss`."""
    for name in ("home", "project"):
        (folder / name).mkdir()
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    (folder / "instructions.md").write_text("Answer briefly.")
    with started(folder / "log", "demo") as url:
        launch = codex(Server(url=url, model="demo", context_length=None, key="none"))
        port = {"CODEX_OSS_PORT": url.rpartition(":")[2]}
        oss = ["--oss", "--local-provider", "ollama", "--model", "demo"]
        return {
            "launch": _turn(binary, folder, launch.command[1:], dict(launch.env)),
            "oss": _turn(binary, folder, oss, port),
        }


def _turn(binary: Path, folder: Path, provider: list[str], env: dict[str, str]) -> list[str]:
    """One prompt, answered; an AssertionError has what Codex said if it ended otherwise."""
    command = [
        *(binary, "exec", *provider, "--json", "--skip-git-repo-check", "--sandbox", "read-only"),
        *("--config", f"model_instructions_file={folder / 'instructions.md'}"),
        *("--output-schema", folder / "schema.json", "--cd", folder / "project", "Say hello."),
    ]
    done = subprocess.run(
        command,
        env=os.environ | env | {"CODEX_HOME": str(folder / "home")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=TURN_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    json.dump(session(Path(sys.argv[1]), Path(sys.argv[2])), sys.stdout)
