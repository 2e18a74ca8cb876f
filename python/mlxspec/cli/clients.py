"""How clients that people use are pointed at a server: their variables, arguments and files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from mlxspec.config import cache_dir

OPEN_WEBUI_PORT: Final = 3000
"""Its own default is ours."""


class Server(Struct, frozen=True):
    """What a client must know of a server."""

    url: str
    model: str
    context_length: int | None
    key: str


class Settings(Struct, frozen=True):
    """A JSON file of a client; `shared` files are the user's, and only added to."""

    path: Path
    content: dict[str, Any]
    shared: bool = False


class Launch(Struct, frozen=True, kw_only=True):
    """How a client is started: variables, command line, and a file that must be there before."""

    command: list[str]
    env: Mapping[str, str] = {}
    settings: Settings | None = None
    install: str
    """How to get the client."""


def claude(server: Server) -> Launch:
    """Claude Code: all three sizes of model are the one that we serve."""
    models = {
        f"ANTHROPIC_DEFAULT_{size}_MODEL": server.model for size in ("OPUS", "SONNET", "HAIKU")
    }
    return Launch(
        command=["claude", "--model", server.model],
        env={
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_AUTH_TOKEN": server.key,
            **models,
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        install="npm install -g @anthropic-ai/claude-code",
    )


def codex(server: Server) -> Launch:
    """Codex CLI: a provider that speaks the responses API."""
    provider = {
        "name": "mlxspec",
        "base_url": f"{server.url}/v1",
        "wire_api": "responses",
        "env_key": "MLXSPEC_CLIENT_KEY",
    }
    table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in provider.items())
    return Launch(
        command=[
            "codex",
            *("--config", 'model_provider="mlxspec"'),
            *("--config", f"model_providers.mlxspec={{ {table} }}"),
            *("--model", server.model),
        ],
        env={"MLXSPEC_CLIENT_KEY": server.key},
        install="npm install -g @openai/codex",
    )


def opencode(server: Server) -> Launch:
    """OpenCode: its whole configuration fits into a variable."""
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "mlxspec",
        "options": {"baseURL": f"{server.url}/v1", "apiKey": server.key},
        "models": {server.model: {"name": server.model}},
    }
    config = {"provider": {"mlxspec": provider}, "model": f"mlxspec/{server.model}"}
    return Launch(
        command=["opencode"],
        env={"OPENCODE_CONFIG_CONTENT": json.dumps(config)},
        install="npm install -g opencode-ai",
    )


def continue_(server: Server) -> Launch:
    """Continue's command line: a file of its own, which YAML readers read as JSON."""
    model = {
        "name": server.model,
        "provider": "openai",
        "model": server.model,
        "apiBase": f"{server.url}/v1",
        "apiKey": server.key,
        "roles": ["chat", "edit", "apply"],
    }
    content = {"name": "mlxspec", "version": "1.0.0", "schema": "v1", "models": [model]}
    path = cache_dir() / "clients" / "continue.yaml"
    return Launch(
        command=["cn", "--config", str(path)],
        settings=Settings(path, content),
        install="npm install -g @continuedev/cli",
    )


def zed(server: Server) -> Launch:
    """Zed: a provider in the user's own settings; the model is chosen in its agent panel."""
    model = {
        "name": server.model,
        "display_name": server.model,
        "max_tokens": server.context_length or 8192,
        "capabilities": {"tools": True, "images": False, "parallel_tool_calls": True},
    }
    provider = {"api_url": f"{server.url}/v1", "available_models": [model]}
    content = {"language_models": {"openai_compatible": {"mlxspec": provider}}}
    return Launch(
        command=["zed"],
        env={"MLXSPEC_API_KEY": server.key},
        settings=Settings(Path.home() / ".config/zed/settings.json", content, shared=True),
        install="see https://zed.dev/download",
    )


def openwebui(server: Server) -> Launch:
    """Open WebUI: on a port of its own."""
    return Launch(
        command=["open-webui", "serve", "--port", str(OPEN_WEBUI_PORT)],
        env={"OPENAI_API_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": server.key},
        install="pip install open-webui",
    )


CLIENTS: Final[Mapping[str, Callable[[Server], Launch]]] = {
    "claude": claude,
    "codex": codex,
    "continue": continue_,
    "opencode": opencode,
    "openwebui": openwebui,
    "zed": zed,
}
