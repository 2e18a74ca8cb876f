"""The served models and the names clients know them by. Nothing else is ever loaded."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlxspec.config import Config
from mlxspec.engine.groups import Group
from mlxspec.engine.request import Capability, GenerationRequest, ModelCard, ModelState
from mlxspec.engine.tokenizer import Tokenizer
from mlxspec.errors import ModelNotFoundError
from mlxspec.model.encoder_folder import ModelKind
from mlxspec.model.store import StoredModel
from mlxspec.model_tables import ModelConfig

ANY_NAME = "*"
DEFAULT = "default"
"""The default model's name, unless a model has it."""


class Status(NamedTuple):
    """Where a model stands, as the scheduler tells it: bytes, requests, seconds until it leaves."""

    state: ModelState
    held: int
    need: int
    running: int
    waiting: int
    expires_in: float | None


class ServedModel:
    """One configured model: what clients see of it, and its tokenizer once read."""

    def __init__(self, index: int, config: ModelConfig) -> None:
        self.index = index
        self.config = config
        self.id = config.id
        self.created = int(time.time())
        self.state: ModelState = "absent"
        self.awaited = False
        """Loaded at start, and not there yet."""
        self.context_length: int | None = None
        self.load_error: str | None = None
        self.tokenizer_error: str | None = None
        self.progress: float | None = None
        self.tokenizer: Tokenizer | None = None
        self.stored: StoredModel | None = None
        """What its folder says of it, once read."""
        self.shows_hidden = False
        """It was loaded, and its hidden states can be read."""

    @property
    def folder(self) -> Path:
        return Path(self.config.source)

    @property
    def kind(self) -> ModelKind:
        """What it is made for; its folder has been read."""
        return self.stored.kind if self.stored else "generative"

    @property
    def longest_text(self) -> int | None:
        """Tokens of the longest text it reads, as far as is known before it is loaded."""
        told = self.stored.context_length if self.stored else None
        known = [it for it in (told, self.config.context_length) if it is not None]
        return self.context_length or min(known, default=None)

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """What it can be asked for; of a generative model, embeddings once it was loaded."""
        if self.kind != "generative":
            return ("embedding",) if self.kind == "encoder" else ("rerank",)
        own = self.tokenizer.capabilities if self.tokenizer else ("completion",)
        return (*own, "embedding") if self.shows_hidden else own

    def card(self, status: Status) -> ModelCard:
        """The model as clients see it, with the scheduler's figures."""
        stored = self.stored
        return ModelCard(
            id=self.id,
            created=self.created,
            state=self.state,
            context_length=self.context_length,
            error=self.tokenizer_error or self.load_error,
            awaited=self.awaited,
            num_bytes=stored.num_bytes if stored else 0,
            model_type=stored.model_type if stored else "unknown",
            dtype=stored.dtype if stored else "unknown",
            chat_template=self.tokenizer.chat_template if self.tokenizer else "",
            capabilities=self.capabilities,
            memory_bytes=status.held or status.need,
            num_running=status.running,
            num_waiting=status.waiting,
            expires_in=status.expires_in,
            progress=self.progress,
            pinned=self.config.pinned,
            aliases=self.config.aliases,
            tags=self.config.tags,
            description=self.config.description,
            folder=self.config.source,
        )


class Catalog:
    """Finds a model by the name in a request: an id, an alias, a group, the default, or the
    catch-all."""

    def __init__(self, config: Config) -> None:
        self.models = [ServedModel(at, model) for at, model in enumerate(config.models)]
        self.name(config)

    def name(self, config: Config) -> None:
        """Find models by the names that a configuration of these models gives them."""
        self._by_name: dict[str, ServedModel] = {}
        for model in self.models:
            for name in (model.id, *model.config.aliases):
                self._by_name[name] = model
        of_id = {model.id: model for model in self.models}
        self.groups = {
            name: Group(name, group, [of_id[member] for member in group.members])
            for name, group in config.groups.items()
        }
        for name, group in self.groups.items():
            self._by_name[name] = group.default
        if config.default_model is not None:
            self._by_name.setdefault(DEFAULT, self.find(config.default_model))
        elif self.models:
            self._by_name.setdefault(DEFAULT, self.models[0])

    def route(self, request: GenerationRequest, load: Callable[[ServedModel], int]) -> ServedModel:
        """Who answers the request; raises ModelNotFoundError. `load` as for `Group.choose`."""
        group = self.groups.get(request.model)
        return self.find(request.model) if group is None else group.choose(request, load)

    def find(self, name: str) -> ServedModel:
        """The model of that name, a group's default for the group's; raises ModelNotFoundError."""
        model = self._by_name.get(name) or self._by_name.get(ANY_NAME)
        if model is None:
            served = ", ".join([*(model.id for model in self.models), *self.groups]) or "none"
            raise ModelNotFoundError(
                f"model {name!r:.200} is not served here: use one of {served}", param="model"
            )
        return model
