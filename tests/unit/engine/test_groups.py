"""Who answers to a group's name."""

from collections import Counter
from typing import Any

import pytest

from mlxspec.config import Config
from mlxspec.engine.catalog import Catalog, ServedModel
from mlxspec.engine.request import GenerationRequest, Message
from mlxspec.model_tables import GroupConfig, ModelConfig


def catalog(resident: str = "abc", **group: Any) -> Catalog:
    models = tuple(ModelConfig(id=name, source=name) for name in "abc")
    groups = {"g": GroupConfig(members=("a", "b", "c"), **group)}
    found = Catalog(Config(models=models, groups=groups))
    for model in found.models:
        model.state = "resident" if model.id in resident else "absent"
    return found


def said(*texts: str) -> list[Message]:
    roles = ("system", *("user", "assistant") * len(texts))
    return [{"role": role, "content": it} for role, it in zip(roles, texts, strict=False)]


def ask(prompt: Any = "x", salt: str = "") -> GenerationRequest:
    return GenerationRequest(model="g", prompt=prompt, max_tokens=1, cache_salt=salt)


def chosen(found: Catalog, requests: list[GenerationRequest], loads: dict[str, int]) -> list[str]:
    def load(model: ServedModel) -> int:
        return loads.get(model.id, 0)

    return [found.route(request, load).id for request in requests]


def test_a_group_is_its_default_member() -> None:
    assert chosen(catalog(), [ask()], {}) == ["a"]
    assert chosen(catalog(default="b"), [ask()] * 2, {}) == ["b", "b"]
    assert catalog(default="b").find("g").id == "b"


def test_round_robin_goes_round_those_in_memory() -> None:
    found = catalog(resident="ac", balance="round-robin")
    assert chosen(found, [ask()] * 5, {}) == ["a", "c", "a", "c", "a"]


def test_the_least_loaded_answers() -> None:
    found = catalog(balance="least-loaded")
    assert chosen(found, [ask()], {"a": 2, "b": 1, "c": 3}) == ["b"]


@pytest.mark.parametrize("balance", ["round-robin", "least-loaded", "prefix"])
def test_the_first_is_loaded_if_none_is_in_memory(balance: str) -> None:
    assert chosen(catalog(resident="", balance=balance), [ask()] * 3, {}) == ["a"] * 3


def test_a_conversation_stays_where_it_began() -> None:
    found = catalog(balance="prefix")
    first = ask(said("be brief", "hello"))
    later = ask(said("be brief", "hello", "hi", "how are you?"))
    assert len(set(chosen(found, [first, later] * 3, {}))) == 1
    texts = [ask("once upon a time " * 20), ask("once upon a time " * 20 + "there")]
    assert len(set(chosen(found, texts, {}))) == 1


def test_other_conversations_and_other_salts_go_elsewhere_too() -> None:
    found = catalog(balance="prefix")
    many = [ask(said("be brief", f"question {at}")) for at in range(300)]
    counts = Counter(chosen(found, many, {}))
    assert min(counts.values()) > 60, counts
    salted = [ask("the same", salt=str(at)) for at in range(50)]
    assert len(set(chosen(found, salted, {}))) == 3


def test_a_full_member_is_passed_over() -> None:
    found = catalog(balance="prefix")
    request = ask("some text")
    [home] = chosen(found, [request], {})
    [other] = chosen(found, [request], {home: 4})
    assert other != home
    assert chosen(found, [request], dict.fromkeys("abc", 4)) == [home]


def test_who_leaves_moves_no_other_conversation() -> None:
    all_there = catalog(balance="prefix")
    one_left = catalog(resident="ab", balance="prefix")
    many = [ask(f"text {at}") for at in range(100)]
    pairs = zip(chosen(all_there, many, {}), chosen(one_left, many, {}), strict=True)
    assert all(before == after for before, after in pairs if before != "c")
