"""Every knob, as one frozen tree. Flag > environment > file > default; unknown keys are errors.

The environment is read here and nowhere else.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from mlxspec.errors import ConfigError
from mlxspec.model_tables import (
    DrafterConfig,
    GroupConfig,
    ModelConfig,
    check_references,
    nearest,
    with_ids,
)

CONFIG_ENV = "MLXSPEC_CONFIG_JSON"
"""Carries the whole resolved configuration from the command line to the server's worker."""

MIN_KEY_LENGTH = 16

Positive = Annotated[int, Meta(ge=1)]
HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
Origin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://(\*|[A-Za-z0-9._:\[\]-]+))$")]
"""A web page's origin, `scheme://*` for all of a scheme, or `*` for all there are."""

Seconds = Annotated[float, Meta(ge=0)]
LogLevel = Literal["debug", "info", "warning", "error"]
Acceptance = Literal["shared-noise", "rejection"]
Tree = dict[str, Any]
"""A configuration before it is checked: sections of keys, as a TOML file gives it."""


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where to listen and when to give up on clients."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    drain_seconds: Annotated[float, Meta(ge=0)] = 30.0
    keepalive_seconds: Annotated[float, Meta(gt=0)] = 15.0
    max_body_bytes: Positive = 4 << 20
    tls_cert: str | None = None
    tls_key: str | None = None
    log_level: LogLevel = "info"


class AccessConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who may talk to the server: keys, and the hosts and web pages beyond its own.

    key_sha256 is the hash of the one key that `MLXSPEC_API_KEY` gives.
    """

    key_file: str | None = None
    key_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None
    allowed_hosts: tuple[HostName, ...] = ()
    allowed_origins: tuple[Origin, ...] = ()

    @property
    def wants_key(self) -> bool:
        """Whether requests need a key."""
        return self.key_file is not None or self.key_sha256 is not None


class SchedulerConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many requests wait and run, and how many tokens a step may carry.

    A step that decodes reads no more of prompts than fits `inter_token_ms` and `prefill_chunk`.
    `None` means: chosen for the backend when the model is loaded.
    """

    max_waiting: Positive = 256
    max_running: Positive = 64
    step_tokens: Positive | None = None
    prefill_chunk: Positive | None = None
    inter_token_ms: Annotated[float, Meta(gt=0)] = 250.0


class LimitsConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What clients may ask for and how long it may take; times in seconds, 0 for no deadline."""

    max_queued_tokens: Positive = 1_000_000
    max_held_bytes: Positive = 256 << 20
    max_json_depth: Positive = 64
    queue_seconds: Seconds = 300.0
    first_token_seconds: Seconds = 600.0
    total_seconds: Seconds = 3600.0
    body_seconds: Annotated[float, Meta(gt=0)] = 30.0
    hang_seconds: Seconds = 120.0
    stall_seconds: Annotated[float, Meta(gt=0)] = 30.0


class MemoryConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Memory of all models together: the budget in bytes (`None`: measured at start).

    when_full: a model is asked for and there is no room: `evict` idle models, least recently used
    first, and wait for busy ones; `wait` until memory is free; or `fail` at once. A request waits
    `wait_seconds` at most. After `patience_seconds` busy models take no new requests until the one
    that waits longest has its memory. No model is evicted before `min_resident_seconds` are over.

    limit_bytes: what the process may hold in all (`None`: the host's memory, or the container's).
    From the soft watermark on, a share of that, caches and idle models are given up and nobody is
    let in beside those who run; from the hard one on requests are refused. 0 switches that off.
    """

    budget_bytes: Positive | None = None
    when_full: Literal["evict", "wait", "fail"] = "evict"
    wait_seconds: Annotated[float, Meta(ge=0)] = 120.0
    patience_seconds: Annotated[float, Meta(ge=0)] = 10.0
    min_resident_seconds: Annotated[float, Meta(ge=0)] = 5.0
    limit_bytes: Positive | None = None
    soft_watermark: Annotated[float, Meta(ge=0)] = 0.85
    hard_watermark: Annotated[float, Meta(ge=0)] = 0.95


class KVConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """KV memory: its budget in bytes (`None`: measured at start), and if it outlives requests.

    folder: where it outlives the server too, if anywhere, in at most `folder_bytes`.
    """

    memory_bytes: Positive | None = None
    prefix_cache: bool = True
    folder: str | None = None
    folder_bytes: Positive = 8 << 30


class SpeculationConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Speculative decoding: on or off for the server, longest draft in tokens.

    `shared_suffix_bytes` of each model remember answers to draft later ones from; 0 remembers none.
    `suffix_dir` is where they outlive the server, if anywhere. `acceptance` is the rule for a draft
    model's drafts: `shared-noise` keeps the tokens of plain decoding, `rejection` their
    distribution. `keep_costs`: what steps cost is measured once for a device and model, and written
    to the cache folder. Two are for measuring: not `adaptive`, drafts from text are as long as can
    be, whether that pays or not; with `synthetic_acceptance`, drafts are accepted at this rate,
    right or wrong, and answers mean nothing.
    """

    enabled: bool = True
    max_draft: Annotated[int, Meta(ge=1, le=64)] = 64
    adaptive: bool = True
    shared_suffix_bytes: Annotated[int, Meta(ge=0)] = 32 << 20
    suffix_dir: str | None = None
    acceptance: Acceptance = "shared-noise"
    keep_costs: bool = True
    synthetic_acceptance: Annotated[float, Meta(ge=0, le=1)] | None = None


class ResponsesConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept of /v1/responses for `previous_response_id`, for each API key apart."""

    max_stored: Annotated[int, Meta(ge=0)] = 1000
    max_bytes: Annotated[int, Meta(ge=0)] = 64 << 20
    ttl_seconds: Annotated[float, Meta(gt=0)] = 86_400.0


class BatchesConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files and batches: where they lie (None: nowhere, once the server has ended), and bounds.

    `max_bytes` of all files together; `max_requests` of one batch, `max_running` of them at once.
    """

    dir: str | None = None
    max_bytes: Positive = 256 << 20
    max_requests: Positive = 10_000
    max_running: Positive = 4


class TracingConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where OpenTelemetry spans go; `otlp` sends them as `OTEL_EXPORTER_OTLP_*` say."""

    exporter: Literal["none", "otlp", "console"] = "none"


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration, checked once and passed whole."""

    server: ServerConfig = ServerConfig()
    access: AccessConfig = AccessConfig()
    limits: LimitsConfig = LimitsConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    memory: MemoryConfig = MemoryConfig()
    kv: KVConfig = KVConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    responses: ResponsesConfig = ResponsesConfig()
    batches: BatchesConfig = BatchesConfig()
    tracing: TracingConfig = TracingConfig()
    models: tuple[ModelConfig, ...] = ()
    groups: dict[str, GroupConfig] = {}
    """Models under one more name each."""
    drafters: dict[str, DrafterConfig] = {}
    """Draft models by the names that models name them by."""
    default_model: str | None = None
    """Id or alias of the model that the name `default` stands for; without it, the first."""

    def to_env(self) -> dict[str, str]:
        """The environment variable that carries this configuration to a worker process."""
        return {CONFIG_ENV: msgspec.json.encode(self).decode()}

    @classmethod
    def from_env(cls) -> "Config":
        """Read what `to_env` wrote; raises ConfigError when it is absent or does not fit."""
        text = os.environ.get(CONFIG_ENV)
        if text is None:
            raise ConfigError(f"{CONFIG_ENV} is not set: start the server with 'mlxspec serve'")
        return convert(msgspec.json.decode(text))


def convert(raw: Any) -> Config:
    """Check a plain tree of dicts against the schema; ConfigError names the key at fault."""
    try:
        config = msgspec.convert(with_ids(raw), Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"configuration: {error}{_nearest(str(error))}") from None
    check_references(config.models, config.groups, config.drafters, config.default_model)
    return config


def _nearest(message: str) -> str:
    """For an unknown key, the known one that looks most like it; empty if none does."""
    unknown = re.search(r"unknown field `([^`]+)`(?: - at `\$\.?([a-z_]*))?", message)
    if unknown is None:
        return ""
    section = {field.name: field.type for field in msgspec.structs.fields(Config)}
    tables = {"models": ModelConfig, "groups": GroupConfig, "drafters": DrafterConfig}
    sections = {**section, **tables}
    known = sections.get(unknown[2] or "", Config)
    return nearest(unknown[1], [field.name for field in msgspec.structs.fields(known)])


def resolve(flags: Tree, file: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Merge flags over environment over file over defaults, and check the whole.

    flags: only the keys the user gave. file: the `--config` flag; without it `MLXSPEC_CONFIG` may
    name one. Raises ConfigError naming the flag, variable, or key at fault.
    """
    if file is None and (named := environ.get("MLXSPEC_CONFIG")):
        file = Path(named)
    base = load_file(file) if file is not None else {}
    return convert(_merge(_merge(base, read_environment(environ)), flags))


def read_environment(environ: Mapping[str, str] = os.environ) -> Tree:
    """The configuration that `MLXSPEC_*` variables give; ConfigError for one that is unknown."""
    tree: Tree = {}
    for variable in sorted(environ):
        if not variable.startswith("MLXSPEC_") or variable in _NOT_KNOBS:
            continue
        if variable not in _VARIABLES:
            known = ", ".join(_VARIABLES)
            raise ConfigError(f"{variable} is not a setting: unset it (settings: {known})")
        section, key = _VARIABLES[variable]
        tree.setdefault(section, {})[key] = _parse(variable, section, key, environ[variable])
    if exporter := _traces_exporter(environ):
        tree["tracing"] = {"exporter": exporter}
    return tree


def _traces_exporter(environ: Mapping[str, str]) -> str | None:
    """What OpenTelemetry's standard variables say of traces; None if they say nothing."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return "none"
    for name in _OTLP:
        protocol = environ.get(f"{name}_PROTOCOL") or "http/protobuf"
        if protocol != "http/protobuf":
            raise ConfigError(f"{name}_PROTOCOL={protocol} is not spoken: use http/protobuf")
    if chosen := environ.get("OTEL_TRACES_EXPORTER"):
        parsed: str = _parse("OTEL_TRACES_EXPORTER", "tracing", "exporter", chosen)
        return parsed
    return "otlp" if any(environ.get(f"{name}_ENDPOINT") for name in _OTLP) else None


def parse_size(text: str) -> int:
    """Bytes in a size such as `4GiB`, `512MiB`, `4GB` or `1073741824`; ConfigError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT]?)(i?)B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write one such as 4GiB or 512MiB")
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** " KMGT".index((prefix or " ").upper()))


def set_defaults(variables: Mapping[str, str], environ: MutableMapping[str, str]) -> dict[str, str]:
    """Set the variables the user has not; return what is now in force."""
    return {name: environ.setdefault(name, value) for name, value in variables.items()}


def load_file(path: Path) -> Tree:
    """Read a TOML file into a plain tree; ConfigError when it cannot be read or parsed."""
    try:
        tree: Tree = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    return tree


def default_key_file(environ: Mapping[str, str] = os.environ) -> Path:
    """Where `mlxspec key` keeps API keys unless told otherwise."""
    base = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "mlxspec" / "keys.json"


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where configurations lie that the admin API saves and loads."""
    return default_key_file(environ).parent / "configs"


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where pulled and imported models live: `MLXSPEC_HOME`, else the user's cache folder."""
    if home := environ.get("MLXSPEC_HOME"):
        return Path(home)
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlxspec"


_OTLP: Final = ("OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_TRACES")
_NOT_KNOBS: Final = frozenset({CONFIG_ENV, "MLXSPEC_CONFIG", "MLXSPEC_HOME"})
_VARIABLES: Final = {
    "MLXSPEC_HOST": ("server", "host"),
    "MLXSPEC_PORT": ("server", "port"),
    "MLXSPEC_DRAIN_SECONDS": ("server", "drain_seconds"),
    "MLXSPEC_KEEPALIVE_SECONDS": ("server", "keepalive_seconds"),
    "MLXSPEC_MAX_BODY_BYTES": ("server", "max_body_bytes"),
    "MLXSPEC_LOG_LEVEL": ("server", "log_level"),
    "MLXSPEC_TLS_CERT": ("server", "tls_cert"),
    "MLXSPEC_TLS_KEY": ("server", "tls_key"),
    "MLXSPEC_KEY_FILE": ("access", "key_file"),
    "MLXSPEC_API_KEY": ("access", "key_sha256"),
    "MLXSPEC_MAX_QUEUED_TOKENS": ("limits", "max_queued_tokens"),
    "MLXSPEC_MAX_HELD_BYTES": ("limits", "max_held_bytes"),
    "MLXSPEC_QUEUE_SECONDS": ("limits", "queue_seconds"),
    "MLXSPEC_FIRST_TOKEN_SECONDS": ("limits", "first_token_seconds"),
    "MLXSPEC_TOTAL_SECONDS": ("limits", "total_seconds"),
    "MLXSPEC_BODY_SECONDS": ("limits", "body_seconds"),
    "MLXSPEC_HANG_SECONDS": ("limits", "hang_seconds"),
    "MLXSPEC_STALL_SECONDS": ("limits", "stall_seconds"),
    "MLXSPEC_MAX_WAITING": ("scheduler", "max_waiting"),
    "MLXSPEC_MAX_RUNNING": ("scheduler", "max_running"),
    "MLXSPEC_STEP_TOKENS": ("scheduler", "step_tokens"),
    "MLXSPEC_PREFILL_CHUNK": ("scheduler", "prefill_chunk"),
    "MLXSPEC_INTER_TOKEN_MS": ("scheduler", "inter_token_ms"),
    "MLXSPEC_MEMORY": ("memory", "budget_bytes"),
    "MLXSPEC_WHEN_FULL": ("memory", "when_full"),
    "MLXSPEC_MEMORY_LIMIT": ("memory", "limit_bytes"),
    "MLXSPEC_SOFT_WATERMARK": ("memory", "soft_watermark"),
    "MLXSPEC_HARD_WATERMARK": ("memory", "hard_watermark"),
    "MLXSPEC_KV_MEMORY": ("kv", "memory_bytes"),
    "MLXSPEC_PREFIX_CACHE": ("kv", "prefix_cache"),
    "MLXSPEC_KV_DIR": ("kv", "folder"),
    "MLXSPEC_KV_DIR_SIZE": ("kv", "folder_bytes"),
    "MLXSPEC_SPECULATION": ("speculation", "enabled"),
    "MLXSPEC_MAX_DRAFT": ("speculation", "max_draft"),
    "MLXSPEC_SHARED_SUFFIX_MEMORY": ("speculation", "shared_suffix_bytes"),
    "MLXSPEC_SYNTHETIC_ACCEPTANCE": ("speculation", "synthetic_acceptance"),
    "MLXSPEC_SUFFIX_DIR": ("speculation", "suffix_dir"),
    "MLXSPEC_BATCH_DIR": ("batches", "dir"),
}
"""Each variable and the section and key that it sets."""


def _hash_key(text: str) -> str:
    """A key's hash: its text goes no further than here, not even into an error."""
    if len(text) < MIN_KEY_LENGTH:
        raise ConfigError(
            f"a key needs at least {MIN_KEY_LENGTH} characters: 'mlxspec key create' makes one"
        )
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


_PARSERS: Final[dict[str, Callable[[str], str | int]]] = {
    "memory_bytes": parse_size,
    "folder_bytes": parse_size,
    "shared_suffix_bytes": parse_size,
    "max_held_bytes": parse_size,
    "budget_bytes": parse_size,
    "limit_bytes": parse_size,
    "key_sha256": _hash_key,
}
"""Keys whose variable is written otherwise than in a file."""


def _parse(variable: str, section: str, key: str, text: str) -> Any:
    """Turn a variable's text into its key's type."""
    try:
        raw: str | int = _PARSERS[key](text) if key in _PARSERS else text
        config = msgspec.convert({section: {key: raw}}, Config, strict=False)
    except (msgspec.ValidationError, ConfigError) as error:
        shown = variable if key == "key_sha256" else f"{variable}={text}"
        raise ConfigError(f"{shown}: {error}") from None
    return getattr(getattr(config, section), key)


def _merge(base: Tree, over: Tree) -> Tree:
    """`base` with the keys of `over` laid over it, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged
