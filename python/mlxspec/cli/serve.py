"""`mlxspec serve`: from flags to a running server."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click

from mlxspec import __version__
from mlxspec.address import check_exposure
from mlxspec.cli.size import Size
from mlxspec.config import Config, Tree, default_key_file, resolve
from mlxspec.errors import ConfigError, UnavailableError
from mlxspec.model_tables import AUTO, DrafterConfig, ModelConfig, check_references

_PLACES: Final = {
    "host": "server", "port": "server", "log_level": "server", "drain_seconds": "server",
    "keepalive_seconds": "server", "tls_cert": "server", "tls_key": "server",
    "key_file": "access", "allowed_hosts": "access", "allowed_origins": "access",
    "max_running": "scheduler", "max_waiting": "scheduler",
    "step_tokens": "scheduler", "prefill_chunk": "scheduler", "inter_token_ms": "scheduler",
    "memory_bytes": "kv", "prefix_cache": "kv", "folder": "kv", "folder_bytes": "kv",
    "budget_bytes": "memory", "when_full": "memory",
    "enabled": "speculation", "max_draft": "speculation", "adaptive": "speculation",
    "shared_suffix_bytes": "speculation", "suffix_dir": "speculation", "acceptance": "speculation",
    "synthetic_acceptance": "speculation", "dir": "batches",
}  # fmt: skip
"""The section of the configuration that each flag belongs to."""

_OF_MODELS: Final = ("context_length", "kv_bits")
"""Flags that set the same for each model."""

_COUNT: Final = click.IntRange(min=1)


@click.command("serve")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--model", "more_models", multiple=True, metavar="MODEL", help="A model to serve.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [default: 8080]")
@click.option(
    "--key-file", type=click.Path(), help="API keys of 'mlxspec key create'; then one is needed."
)
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="A name under which clients reach this server.",
)  # fmt: skip
@click.option(
    "--allowed-origin", "allowed_origins", multiple=True, metavar="ORIGIN",
    help="A web page's origin that may use this server.",
)  # fmt: skip
@click.option("--tls-cert", type=click.Path(), help="Certificate chain, in PEM.")
@click.option("--tls-key", type=click.Path(), help="The certificate's private key, in PEM.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A TOML file.")
@click.option(
    "--no-speculation", "enabled", flag_value=False, type=bool, default=None,
    help="Decode one token a step.",
)  # fmt: skip
@click.option("--max-draft", type=click.IntRange(1, 64), help="Longest draft, in tokens.")
@click.option(
    "--fixed-draft", "adaptive", flag_value=False, type=bool, default=None,
    help="For measuring: draft from text as much as --max-draft allows, whether it pays or not.",
)  # fmt: skip
@click.option(
    "--shared-suffix-memory", "shared_suffix_bytes", type=Size(),
    help="Memory of each model for answers to draft later ones from; 0 keeps none.",
)  # fmt: skip
@click.option(
    "--acceptance", type=click.Choice(["shared-noise", "rejection"]),
    help="Rule for a draft model's drafts: keep plain decoding's tokens, or their distribution.",
)  # fmt: skip
@click.option("--suffix-dir", type=click.Path(), help="Keep those answers here across restarts.")
@click.option(
    "--synthetic-acceptance", type=click.FloatRange(0, 1),
    help="For measuring: accept drafts at this rate, right or wrong. Answers mean nothing.",
)  # fmt: skip
@click.option("--max-running", type=_COUNT, help="Requests that run at once.")
@click.option("--max-waiting", type=_COUNT, help="Requests that wait; more are refused (429).")
@click.option("--step-tokens", type=_COUNT, help="Most tokens one step computes.")
@click.option(
    "--prefill-chunk", type=_COUNT, help="Most prompt tokens in a step that also decodes."
)
@click.option(
    "--inter-token-ms", type=click.FloatRange(0, min_open=True),
    help="Most milliseconds of a step that decodes and reads prompts beside.  [default: 500]",
)  # fmt: skip
@click.option("--memory", "budget_bytes", type=Size(), help="Memory for all models, KV included.")
@click.option(
    "--when-full", type=click.Choice(["evict", "wait", "fail"]),
    help="What to do when a model is asked for and there is no room.  [default: evict]",
)  # fmt: skip
@click.option("--kv-memory", "memory_bytes", type=Size(), help="Memory for KV, such as 4GiB.")
@click.option(
    "--no-prefix-cache", "prefix_cache", flag_value=False, type=bool, default=None,
    help="Compute every prompt from its first token.",
)  # fmt: skip
@click.option(
    "--batch-dir", "dir", type=click.Path(), help="Keep files and batches here across restarts."
)
@click.option("--kv-dir", "folder", type=click.Path(), help="Keep KV here across restarts.")
@click.option(
    "--kv-dir-size", "folder_bytes", type=Size(), help="Most bytes to keep there.  [default: 8GiB]"
)
@click.option(
    "--kv-bits", type=click.Choice([8, 4]),
    help="Keep the KV of each model in so many bits. Changes tokens.  [default: as computed]",
)  # fmt: skip
@click.option("--context-length", type=_COUNT, help="Longest context of each model, in tokens.")
@click.option(
    "--draft-model",
    metavar="MODEL",
    help="A smaller model to draft with; 'auto': the model's own layers, if any pay.",
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]))
@click.option(
    "--keepalive-seconds", type=click.FloatRange(0, min_open=True),
    help="Silence after which a waiting stream gets a comment.  [default: 15]",
)  # fmt: skip
@click.option("--drain-seconds", type=click.FloatRange(0), help="Time to finish at shutdown.")
def command(
    models: tuple[str, ...],
    more_models: tuple[str, ...],
    file: Path | None,
    draft_model: str | None,
    **flags: Any,
) -> None:
    """Serve MODELs: folders, names from `mlxspec list`, or Hugging Face ids.

    Without MODEL, the only model on this machine is served.
    """
    for_all = {name: flags.pop(name) for name in _OF_MODELS}
    config = _with_keys(resolve(_tree(flags), file))
    config = _with_models(config, (*models, *more_models), draft_model, for_all)
    check_exposure(config)
    _check_kv_dir(config)
    click.echo(_welcome(config))
    from mlxspec.server import serve

    serve(config)


def _tree(flags: dict[str, Any]) -> Tree:
    """Only the flags that were given, in their sections."""
    tree: Tree = {}
    for key, value in flags.items():
        if value not in (None, ()):
            tree.setdefault(_PLACES[key], {})[key] = value
    return tree


def _with_keys(config: Config) -> Config:
    """Whoever has made keys wants them asked for: their usual file counts if it is there."""
    if config.access.wants_key or not default_key_file().exists():
        return config
    access = msgspec.structs.replace(config.access, key_file=str(default_key_file()))
    return msgspec.structs.replace(config, access=access)


def _with_models(
    config: Config,
    sources: tuple[str, ...],
    draft_model: str | None,
    for_all: Tree,
) -> Config:
    """Put the models to serve into the configuration, each found and checked on this machine.

    for_all: settings that every model gets, where they are not None.
    """
    from mlxspec.model.store import model_id

    wanted = [ModelConfig(id=model_id(source), source=source) for source in sources]
    wanted = wanted or list(config.models) or [_only_model()]
    ids = [model.id for model in wanted]
    if twice := next((name for name in ids if ids.count(name) > 1), None):
        raise ConfigError(f"two models would be served as {twice!r}: give them ids in --config")
    if draft_model is not None:
        if len(wanted) > 1:
            raise ConfigError(
                f"--draft-model for {len(wanted)} models: give each its 'draft_model' in --config"
            )
        wanted = [msgspec.structs.replace(wanted[0], draft_model=draft_model)]
    drafters = {name: _located_drafter(it) for name, it in config.drafters.items()}
    models = tuple(_located(model, drafters, for_all) for model in wanted)
    check_references(models, config.groups, drafters, config.default_model)
    return msgspec.structs.replace(config, models=models, drafters=drafters)


def _check_kv_dir(config: Config) -> None:
    """Make the folder for KV if it is not there; nobody else may look into it then."""
    if config.kv.folder is None:
        return
    folder = Path(config.kv.folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--kv-dir {folder}: {error.strerror}: choose another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--kv-dir {folder} cannot be written: choose another folder")


def _only_model() -> ModelConfig:
    from mlxspec.model.store import list_models

    names = [model.name for model in list_models()]
    if not names:
        raise ConfigError("there is no model to serve: mlxspec pull demo")
    if len(names) > 1:
        raise ConfigError(f"which model? mlxspec serve MODEL, one of: {', '.join(names)}")
    return ModelConfig(id=names[0], source=names[0])


def _located_drafter(drafter: DrafterConfig) -> DrafterConfig:
    from mlxspec.model import store

    return DrafterConfig(source=str(store.resolve(drafter.source, download=True)))


def _located(
    model: ModelConfig, drafters: Mapping[str, DrafterConfig], for_all: Tree
) -> ModelConfig:
    """The model with checked folders as its sources; fetches what is not here."""
    from mlxspec.engine.dictionary import dictionary
    from mlxspec.model import store

    if model.source in store.PULLED and not store.place(model.source).is_dir():
        _pull(model.source)
    folder = store.resolve(model.source, download=True)
    draft_model = model.draft_model
    if draft_model is not None and draft_model != AUTO:
        if draft_model not in drafters:
            draft_model = str(store.resolve(draft_model, download=True))
        named = drafters.get(draft_model)
        dictionary(folder, Path(named.source if named else draft_model))  # or a refusal
    return msgspec.structs.replace(
        model,
        source=str(folder),
        draft_model=draft_model,
        **{name: value for name, value in for_all.items() if value is not None},
    )


def _pull(name: str) -> None:
    """Pull in a process of its own: converting imports mlx, which the server must do first."""
    click.echo(f"the model {name} is not here yet: pulling it")
    pulled = subprocess.run(  # noqa: S603  # our own interpreter, a name of `PULLED`
        [sys.executable, "-m", "mlxspec", "pull", name], check=False
    )
    if pulled.returncode != 0:
        raise UnavailableError(f"the model {name} could not be pulled: see above")


def _welcome(config: Config) -> str:
    """What to try; the server's log says when it listens, and on which port if any would do."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.server.host, config.server.host)  # noqa: S104
    url = f"{'https' if config.server.tls_cert else 'http'}://{host}:{config.server.port}"
    key = " -H 'authorization: Bearer KEY'" if config.access.wants_key else ""
    first = config.models[0].id
    body = {"model": first, "messages": [{"role": "user", "content": "Hello"}]}
    return (
        f"mlxspec {__version__} serves {', '.join(model.id for model in config.models)} "
        f"at {url}/v1\n\n"
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json'{key} \\\n"
        f"    -d '{json.dumps(body)}'\n"
    )
