"""What the configuration says of models, groups and draft models: tables, and names in them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from mlxspec.errors import ConfigError

Balance = Literal["round-robin", "least-loaded", "prefix"]
AtLeastOne = Annotated[int, Meta(ge=1)]
AUTO: Final = "auto"
"""The draft model that a model makes of its own layers, if that pays."""


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One served model: the id clients use and what `mlxspec.model.store.resolve` finds it by.

    draft_model: a drafter's name, or what to find a smaller model by, which drafts for it. Models
    that name the same one share it. `auto`: some of its own layers, if that pays.
    kv_bits: keep keys and values in so many bits (`None`: as the model computes them).

    aliases: other names for it; `*` stands for every name that no model has. pinned: never evicted.
    preload: loaded at start, if there is room. keep_alive_seconds: it leaves when idle for so long
    (`None` or negative: when its memory is needed).

    weight: its part of the device's time while others have work too, relative to theirs.
    instances: queues with KV memory of their own that its requests are spread over by `balance`;
    they share its weights. max_running: requests that run at once, in all of them; max_waiting:
    beyond those, more are refused (`None`: the server's own bounds alone).
    """

    id: str
    source: str
    context_length: AtLeastOne | None = None
    draft_model: str | None = None
    kv_bits: Literal[4, 8] | None = None
    aliases: tuple[str, ...] = ()
    pinned: bool = False
    preload: bool = True
    keep_alive_seconds: float | None = None
    description: str = ""
    tags: tuple[str, ...] = ()
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    instances: Annotated[int, Meta(ge=1, le=16)] = 1
    balance: Balance = "prefix"
    max_running: AtLeastOne | None = None
    max_waiting: Annotated[int, Meta(ge=0)] | None = None


class GroupConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Models under one more name.

    default: the member that answers to the group's name (`None`: the first). balance: who answers
    instead, of the members in memory. max_running, max_waiting: as a model's, for all requests of
    its members together, by whatever name they come.
    """

    members: Annotated[tuple[str, ...], Meta(min_length=1)]
    default: str | None = None
    balance: Literal["default"] | Balance = "default"
    description: str = ""
    tags: tuple[str, ...] = ()
    max_running: AtLeastOne | None = None
    max_waiting: Annotated[int, Meta(ge=0)] | None = None


class DrafterConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A draft model by a name of its own: what `mlxspec.model.store.resolve` finds it by."""

    source: str


def with_ids(raw: Any) -> Any:
    """Models as a list, each with its id, whether a file has `[[models]]` or `[models.ID]`."""
    if not isinstance(raw, Mapping) or not isinstance(tables := raw.get("models"), Mapping):
        return raw
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"models.{name} is not a table: write [models.{name}] above its keys")
        if "id" in table:
            raise ConfigError(f"models.{name} has an 'id', which is its name already: remove it")
    return {**raw, "models": [{"id": name, **table} for name, table in tables.items()]}


def check_references(
    models: Sequence[ModelConfig],
    groups: Mapping[str, GroupConfig],
    drafters: Mapping[str, DrafterConfig],
    default: str | None,
) -> None:
    """Raise ConfigError for a name that two models or groups have, or that nobody has."""
    names = [name for model in models for name in (model.id, *model.aliases)] + list(groups)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"two models or groups are called {twice!r}: give one another name")
    if models and default is not None and default not in names:
        raise ConfigError(
            f"default_model = {default!r} is no model's name{nearest(default, names)}"
        )
    for group in groups:
        _check_group(group, groups[group], [model.id for model in models])
    if AUTO in drafters:
        raise ConfigError(f"[drafters.{AUTO}] has a name that means something else: rename it")
    for model in models:
        name = model.draft_model
        # What is no drafter's name may be a folder or a model of the hub; a slip is neither.
        if name is not None and name not in (AUTO, *drafters) and (near := nearest(name, drafters)):
            raise ConfigError(f"model {model.id!r}: draft_model = {name!r} is no drafter{near}")


def _check_group(name: str, group: GroupConfig, ids: Sequence[str]) -> None:
    if stranger := next((it for it in group.members if it not in ids), None):
        raise ConfigError(
            f"group {name!r}: member {stranger!r} is no model's id{nearest(stranger, ids)}"
        )
    if group.default is not None and group.default not in group.members:
        hint = nearest(group.default, group.members)
        raise ConfigError(f"group {name!r}: default = {group.default!r} is no member{hint}")
    if group.default is not None and group.balance != "default":
        raise ConfigError(
            f"group {name!r} has a default and balance = {group.balance!r}: remove one of them"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that looks most like this one; empty if none does."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""
