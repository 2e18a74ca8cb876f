"""The stream of /v1/responses, byte for byte: a whole one, and one that goes silent and breaks."""

import re
from typing import Any

from fake_engine import FakeEngine
from litestar.testing import TestClient

from mlxspec.errors import EngineError

BODY = {"model": "demo", "input": "hi", "stream": True}
ALIVE = ": keepalive\n\n"
USAGE = (
    ',"usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":3,"cache_write_tokens":0},'
    '"output_tokens":2,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":9},"metrics":M'
)


def event(number: int, kind: str, rest: str) -> str:
    """One frame: its event's name, and its data."""
    data = f'{{"sequence_number":{number},"type":"{kind}",{rest}}}'
    return f"event: {kind}\ndata: {data}\n\n"


def response(status: str, output: str = "", measured: str = "") -> str:
    """The response as it stands."""
    return (
        f'"response":{{"id":"ID","object":"response","created_at":0,"status":"{status}",'
        '"background":false,"error":null,"incomplete_details":null,"instructions":null,'
        f'"max_output_tokens":null,"metadata":{{}},"model":"demo","output":[{output}],'
        '"parallel_tool_calls":true,"previous_response_id":null,'
        '"reasoning":{"effort":null,"summary":null},"store":true,"temperature":1.0,'
        '"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1.0,'
        f'"truncation":"disabled","user":null{measured}}}'
    )


def item(status: str, content: str = "") -> str:
    """The one message."""
    return (
        f'{{"type":"message","id":"ITEM","status":"{status}","role":"assistant",'
        f'"content":[{content}]}}'
    )


def part(text: str) -> str:
    """Its one part."""
    return f'{{"type":"output_text","text":"{text}","annotations":[],"logprobs":[]}}'


PLACE = '"item_id":"ITEM","output_index":0,"content_index":0,'
OPENING = event(0, "response.created", response("in_progress")) + event(
    1, "response.in_progress", response("in_progress")
)
HELLO = (
    event(2, "response.output_item.added", f'"output_index":0,"item":{item("in_progress")}')
    + event(3, "response.content_part.added", f'{PLACE}"part":{part("")}')
    + event(4, "response.output_text.delta", f'{PLACE}"delta":"Hello","logprobs":[]')
)
SAID = item("completed", part("Hello world"))
WHOLE = (
    OPENING
    + HELLO
    + event(5, "response.output_text.delta", f'{PLACE}"delta":" world","logprobs":[]')
    + event(6, "response.output_text.done", f'{PLACE}"text":"Hello world","logprobs":[]')
    + event(7, "response.content_part.done", f'{PLACE}"part":{part("Hello world")}')
    + event(8, "response.output_item.done", f'"output_index":0,"item":{SAID}')
    + event(9, "response.completed", response("completed", SAID, USAGE))
)
BROKEN = (
    OPENING
    + ALIVE
    + HELLO
    + event(5, "error", '"code":"engine_error","message":"the step failed","param":null')
)


def normalised(text: str) -> str:
    """The stream without what differs from run to run, and with one sign of life for many."""
    for pattern, instead in (
        (r'"id":"resp_[0-9a-f]{32}"', '"id":"ID"'),
        (r'"msg_[0-9a-f]{33}"', '"ITEM"'),
        (r'"created_at":\d+', '"created_at":0'),
        (r'"metrics":\{.*?\}\}', '"metrics":M'),
        (r"(: keepalive\n\n)+", ALIVE),
    ):
        text = re.sub(pattern, instead, text)
    return text


def test_a_whole_stream_is_these_bytes(client: TestClient[Any]) -> None:
    assert normalised(client.post("/v1/responses", json=BODY).text) == WHOLE


def test_a_silent_stream_that_breaks_is_these_bytes(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    engine.script = [0.3, "Hello", EngineError("the step failed")]
    assert normalised(client.post("/v1/responses", json=BODY).text) == BROKEN
    assert engine.generations[0].closed
