"""Chats that are not streamed."""

from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import CHAT, chat, usage

from mlxspec.api.openai.params import ChatParams
from mlxspec.engine.request import SamplingParams


def test_the_answer_has_openais_keys_and_our_metrics(client: TestClient[Any]) -> None:
    response = client.post(CHAT, json=chat())
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "demo"
    assert answer["created"] > 1_700_000_000
    assert answer["system_fingerprint"].startswith("mlxspec-")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello world", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == usage(7, 2)
    assert answer["metrics"]["time_to_first_token_ms"] == 12.0
    assert answer["metrics"]["speculative_decoding"]["acceptance_histogram"] == [0, 1, 1]
    timings = answer["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["draft_n_accepted"]) == (3, 4, 3)


def test_every_sampling_field_reaches_the_engine(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "seed": 3,
        "max_tokens": 9,
        "min_tokens": 2,
        "stop": ["a", "b"],
        "stop_token_ids": [7],
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -1,
        "logit_bias": {"5": -100, "foo": 0},
        "allowed_token_ids": [5, 6],
        "bad_words": ["no"],
        "xtc_probability": 0.5,
        "xtc_threshold": 0.2,
        "speculative": {"enabled": False},
        "cache_salt": "mine",
    }
    assert client.post(CHAT, json=chat(**fields)).status_code == 200
    [request] = engine.requests
    assert request.sampling == SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        xtc_probability=0.5,
        xtc_threshold=0.2,
        seed=3,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=-1,
        logit_bias={5: -100},
        allowed_token_ids=(5, 6),
        bad_words=("no",),
    )
    assert (request.min_tokens, request.max_tokens) == (2, 9)
    assert (request.stop, request.stop_token_ids) == (("a", "b"), (7,))
    assert request.ignore_eos
    assert request.keeps_stop
    assert not request.speculative
    assert request.cache_salt == "mine"


def test_absent_and_null_fields_mean_the_defaults(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    names = set(ChatParams.__struct_fields__) - {"model", "messages"}
    client.post(CHAT, json=chat())
    client.post(CHAT, json=chat(**dict.fromkeys(names)))
    plain, nulls = engine.requests
    assert plain == nulls
    assert plain.sampling == SamplingParams()
    assert plain.max_tokens is None
    assert plain.speculative


def test_max_completion_tokens_wins_over_max_tokens(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    client.post(CHAT, json=chat(max_tokens=5, max_completion_tokens=6))
    assert engine.requests[0].max_tokens == 6


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_zero_tokens_answer_empty_and_free_the_request(
    client: TestClient[Any], engine: FakeEngine, name: str
) -> None:
    response = client.post(CHAT, json=chat(**{name: 0}))
    assert response.status_code == 200
    answer = response.json()
    assert answer["choices"][0]["message"]["content"] == ""
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == usage(7, 0)
    assert engine.generations[0].closed


@pytest.mark.parametrize(
    ("seed", "seen"),
    [
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        (-1, 2**64 - 1),
        (-9007199254740991, 2**64 - 9007199254740991),
        (2**64 + 5, 5),
        (10**30, 10**30 % 2**64),
    ],
)
def test_any_integer_is_a_seed(
    client: TestClient[Any], engine: FakeEngine, seed: int, seen: int
) -> None:
    assert client.post(CHAT, json=chat(seed=seed)).status_code == 200
    assert engine.requests[0].sampling.seed == seen


def test_huge_token_limits_are_clamped(client: TestClient[Any], engine: FakeEngine) -> None:
    assert client.post(CHAT, json=chat(max_tokens=10**25)).status_code == 200
    assert engine.requests[0].max_tokens == 2**31 - 1


def test_text_parts_are_joined_and_message_keys_kept(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "c1", "name": "f"},
    ]
    assert client.post(CHAT, json=chat(messages=messages)).status_code == 200
    assert engine.requests[0].prompt == [
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "name": "f", "tool_call_id": "c1"},
    ]


def test_documented_fields_we_do_not_act_on_are_accepted(client: TestClient[Any]) -> None:
    ignored = {
        "metadata": {"a": "b"},
        "store": False,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"x": 1},
        "verbosity": "low",
        "reasoning_effort": "low",
        "modalities": ["text"],
        "audio": {"voice": "alloy", "format": "wav"},
        "web_search_options": {},
        "moderation": {},
        "functions": [{"name": "f"}],
        "function_call": "auto",
        "tools": [{"type": "function", "function": {"name": "f"}}, {"type": "namespace"}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"},
        "service_tier": "auto",
        "response_format": {"type": "text"},
        "n": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {"foo": 0},
        "logprobs": False,
        "top_logprobs": 0,
        "stream_options": {"include_obfuscation": True},
        "never_heard_of": [1],
    }
    assert client.post(CHAT, json=chat(**ignored)).status_code == 200


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""]
)
def test_the_content_type_does_not_matter(client: TestClient[Any], content_type: str) -> None:
    body = b'{"model": "demo", "messages": [{"role": "user", "content": "hi"}]}'
    response = client.post(CHAT, content=body, headers={"content-type": content_type})
    assert response.status_code == 200


def test_the_generation_is_closed_after_the_answer(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    client.post(CHAT, json=chat())
    assert engine.generations[0].closed
    assert not engine.generations[0].closed_while_running
