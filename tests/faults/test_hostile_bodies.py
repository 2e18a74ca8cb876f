"""Bodies that are nearly valid, on every dialect's routes: an answer or a refusal, never a 5xx.

In CI 4,000 random bodies, at full size a million.
"""

import json
import random

import httpx
import pytest
from fake_engine import FakeEngine
from faulty import PARTS, Sized
from mutation import mutate

from mlxspec.api.app import create_app
from mlxspec.config import Config

UNSUPPORTED = 501
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION = {"name": "add", "description": "adds", "parameters": SCHEMA}
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and?"},
]
BODIES = {
    "/v1/chat/completions": {
        "model": "demo",
        "messages": TALK,
        "tools": [{"type": "function", "function": FUNCTION}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "logit_bias": {"7": -100},
        "stop": ["\n", "end"],
        "n": 2,
        "max_tokens": 16,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {
        "model": "demo",
        "prompt": ["a", "b"],
        "echo": False,
        "logprobs": 2,
        "seed": 7,
    },
    "/v1/responses": {
        "model": "demo",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
        "tools": [{"type": "function", **FUNCTION}],
        "text": {"format": {"type": "text"}},
        "max_output_tokens": 16,
    },
    "/v1/messages": {
        "model": "demo",
        "max_tokens": 16,
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "tools": [{"name": "add", "input_schema": SCHEMA}],
        "stop_sequences": ["x"],
    },
    "/api/chat": {"model": "demo", "messages": TALK[2:], "options": {"num_predict": 8, "top_k": 3}},
    "/api/generate": {"model": "demo", "prompt": "hi", "format": SCHEMA, "stream": False},
    "/completion": {
        "model": "demo",
        "prompt": "hi",
        "n_predict": 8,
        "temperature": 0.5,
        "stop": ["x"],
    },
    "/generate": {"model": "demo", "prompt": "hi", "max_tokens": 8},
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_is_nearly_valid_breaks_nothing(
    path: str, sized: Sized, part: int
) -> None:
    app = create_app(FakeEngine(["a", "b"]), Config())
    rng, statuses = random.Random(f"{path} {part}"), set()
    valid = json.dumps(BODIES[path]).encode()
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for _ in range(sized(4_000, 1_000_000 // PARTS) // len(BODIES)):
            body = mutate(rng, valid)
            answer = await client.post(path, content=body)
            statuses.add(answer.status_code)
            assert answer.status_code < 500 or answer.status_code == UNSUPPORTED, body
            assert answer.content
    assert {200, 400} <= statuses, "the bodies are not what they should be: nearly valid"
