"""Every dialect's stream, byte for byte: a whole one, and one that goes silent and then breaks.

Ids, dates and this run's own times are replaced; the script's measured times are left out.
"""

import re
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient

from mlxspec.errors import EngineError

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": True}
REQUESTS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "demo", "prompt": "hi", "stream": True},
    "/v1/messages": {**CHAT, "max_tokens": 9},
    "/api/chat": CHAT,
    "/api/generate": {"model": "demo", "prompt": "hi"},
    "/completion": {"model": "demo", "prompt": "hi", "stream": True},
}
CHUNK = 'data: {"id":"ID","object":"chat.completion.chunk","created":0,"model":"demo",'
CHUNK += '"system_fingerprint":"V","choices":[{"index":0,"delta":'
TEXT = 'data: {"id":"ID","object":"text_completion","created":0,"model":"demo",'
TEXT += '"system_fingerprint":"V","choices":[{"index":0,"text":'
END = ',"logprobs":null,"finish_reason":null}]}\n\n'
LAST = ',"logprobs":null,"finish_reason":"stop"}],"metrics":M,"timings":M}\n\n'
LINE = '{"model":"demo","created_at":"T","done":false,'
ENDED = '{"model":"demo","created_at":"T","done":true,"done_reason":"stop","total_duration":0,'
ENDED += '"load_duration":0,"prompt_eval_count":7,"prompt_eval_duration":11000000,"eval_count":2,'
ENDED += '"eval_duration":5000000,"metrics":M,'
OBJECT = '"model":"demo","tokens_predicted":'
COUNTS = '"cache_creation_input_tokens":0,"cache_read_input_tokens":3}'
START = (
    'event: message_start\ndata: {"type":"message_start","message":{"type":"message","id":"ID",'
    '"role":"assistant","model":"demo","content":[],"stop_reason":null,"stop_sequence":null,'
    f'"usage":{{"input_tokens":4,"output_tokens":0,{COUNTS}}}}}\n\n'
)
BLOCK = (
    'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    '"content_block":{"type":"text","text":""}}\n\n'
    'event: ping\ndata: {"type":"ping"}\n\n'
)
DELTA = (
    'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    '"delta":{"type":"text_delta","text":'
)
STOP = (
    'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn",'
    f'"stop_sequence":null}},"usage":{{"input_tokens":4,"output_tokens":2,{COUNTS},"metrics":M}}\n\n'
    'event: message_stop\ndata: {"type":"message_stop"}\n\n'
)

WHOLE = {
    "/v1/chat/completions": CHUNK
    + '{"role":"assistant","content":""}'
    + END
    + CHUNK
    + '{"content":"Hello"}'
    + END
    + CHUNK
    + '{"content":" world"}'
    + END
    + CHUNK
    + "{}"
    + LAST
    + "data: [DONE]\n\n",
    "/v1/completions": TEXT
    + '"Hello"'
    + END
    + TEXT
    + '" world"'
    + END
    + TEXT
    + '""'
    + LAST
    + "data: [DONE]\n\n",
    "/v1/messages": START + BLOCK + DELTA + '"Hello"}}\n\n' + DELTA + '" world"}}\n\n' + STOP,
    "/api/chat": LINE
    + '"message":{"role":"assistant","content":"Hello"}}\n'
    + LINE
    + '"message":{"role":"assistant","content":" world"}}\n'
    + ENDED
    + '"message":{"role":"assistant","content":""}}\n',
    "/api/generate": LINE
    + '"response":"Hello"}\n'
    + LINE
    + '"response":" world"}\n'
    + ENDED
    + '"response":""}\n',
    "/completion": f'data: {{"content":"Hello","stop":false,{OBJECT}1,"tokens_evaluated":7}}\n\n'
    f'data: {{"content":" world","stop":false,{OBJECT}2,"tokens_evaluated":7}}\n\n'
    f'data: {{"content":"","stop":true,{OBJECT}2,"tokens_evaluated":7,"stop_type":"eos",'
    '"stopping_word":"","timings":M}\n\n',
}

OPENAI_ERROR = (
    'data: {"error":{"message":"the step failed","type":"server_error","param":null,'
    '"code":"engine_error"}}\n\n'
)
ALIVE = ": keepalive\n\n"
BROKEN = {
    "/v1/chat/completions": CHUNK
    + '{"role":"assistant","content":""}'
    + END
    + ALIVE
    + CHUNK
    + '{"content":"Hello"}'
    + END
    + OPENAI_ERROR,
    "/v1/completions": ALIVE + TEXT + '"Hello"' + END + OPENAI_ERROR,
    "/v1/messages": START
    + 'event: ping\ndata: {"type":"ping"}\n\n'
    + BLOCK
    + DELTA
    + '"Hello"}}\n\n'
    + 'event: error\ndata: {"type":"error","error":{"type":"api_error",'
    + '"message":"the step failed"}}\n\n',
    "/api/chat": LINE
    + '"message":{"role":"assistant","content":"Hello"}}\n'
    + '{"error":"the step failed"}\n',
    "/api/generate": LINE + '"response":"Hello"}\n' + '{"error":"the step failed"}\n',
    "/completion": ALIVE
    + f'data: {{"content":"Hello","stop":false,{OBJECT}1,"tokens_evaluated":7}}\n\n'
    + OPENAI_ERROR,
}


def normalised(text: str) -> str:
    """The stream without what differs from run to run, and with one sign of life for many."""
    for pattern, instead in (
        (r'"id":"[a-z]+[-_][0-9a-f]{32}"', '"id":"ID"'),
        (r'"created":\d+', '"created":0'),
        (r'"created_at":"[^"]+"', '"created_at":"T"'),
        (r'"system_fingerprint":"[^"]+"', '"system_fingerprint":"V"'),
        (r'"(total|load)_duration":\d+', r'"\1_duration":0'),
        (r'"metrics":\{.*?\}\}', '"metrics":M'),
        (r'"timings":\{.*?\}', '"timings":M'),
        (r"(: keepalive\n\n)+", ALIVE),
        (r'(event: ping\ndata: \{"type":"ping"\}\n\n)+', r"\1"),
    ):
        text = re.sub(pattern, instead, text)
    return text


@pytest.mark.parametrize("path", REQUESTS)
def test_a_whole_stream_is_these_bytes(client: TestClient[Any], path: str) -> None:
    assert normalised(client.post(path, json=REQUESTS[path]).text) == WHOLE[path]


@pytest.mark.parametrize("path", REQUESTS)
def test_a_silent_stream_that_breaks_is_these_bytes(
    client: TestClient[Any], engine: FakeEngine, path: str
) -> None:
    engine.script = [0.3, "Hello", EngineError("the step failed")]
    assert normalised(client.post(path, json=REQUESTS[path]).text) == BROKEN[path]
    assert engine.generations[0].closed
