"""Groups of models: one more name, and who answers to it. For the event loop's thread."""

import hashlib
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING

import msgspec

from mlxspec.engine.request import GenerationRequest, GroupCard
from mlxspec.model_tables import GroupConfig

if TYPE_CHECKING:
    from mlxspec.engine.catalog import ServedModel

FULL = 1.25
"""A member with so many times the requests of the average one takes no more conversations."""

HEAD = 256
"""Characters, or tokens, of a prompt that is no chat, by which its continuation is known."""


class Group:
    """Members and how a request finds one of them."""

    def __init__(self, name: str, config: GroupConfig, members: Sequence["ServedModel"]) -> None:
        self.name = name
        self.config = config
        self.members = list(members)
        self.default = next((it for it in members if it.id == config.default), members[0])
        self._turns = count()

    def card(self, load: Callable[["ServedModel"], int]) -> GroupCard:
        """The group as clients see it. `load` as for `choose`."""
        types = {it.stored.model_type: None for it in self.members if it.stored is not None}
        return GroupCard(
            id=self.name,
            members=self.config.members,
            default=self.default.id,
            balance=self.config.balance,
            description=self.config.description,
            tags=self.config.tags,
            types=tuple(types),
            max_running=self.config.max_running,
            max_waiting=self.config.max_waiting,
            requests=sum(map(load, self.members)),
        )

    def choose(
        self, request: GenerationRequest, load: Callable[["ServedModel"], int]
    ) -> "ServedModel":
        """Who answers: of the members in memory, as the group's balance says; the default, if none
        is. `load`: a member's requests that have not ended.
        """
        there = [it for it in self.members if it.state == "resident"]
        match self.config.balance if there else "default":
            case "round-robin":
                return there[next(self._turns) % len(there)]
            case "least-loaded":
                return min(there, key=load)
            case "prefix":
                return _of_conversation(request, there, load)
            case _:
                return self.default


def _of_conversation(
    request: GenerationRequest, members: list["ServedModel"], load: Callable[["ServedModel"], int]
) -> "ServedModel":
    """The same member for the same conversation, as long as it has room.

    Members are ranked by a hash of the conversation's beginning and their own name (rendezvous
    hashing), so that who comes and goes moves no conversation of the others; those with more than
    their share are passed over (consistent hashing with bounded loads, Mirrokni et al. 2018).
    """
    most = FULL * (sum(map(load, members)) + 1) / len(members)
    key = _beginning(request)
    ranked = sorted(members, key=lambda it: hashlib.blake2b(key + it.id.encode()).digest())
    return next((it for it in ranked if load(it) < most), ranked[0])


def _beginning(request: GenerationRequest) -> bytes:
    """What all requests of a conversation have in common: all up to what its user said first."""
    prompt = request.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], dict):
        roles = [message.get("role") for message in prompt if isinstance(message, dict)]
        first = roles.index("user") if "user" in roles else 0
        head: object = prompt[: first + 1]
    else:
        head = prompt[:HEAD]
    return msgspec.json.encode((request.cache_salt, head))
