"""The same endpoint as most servers write it, FastAPI on uvicorn: `python -m layer.peer PORT`."""

import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from layer.script import MODEL, WORD


class Message(BaseModel):
    """One message."""

    role: str
    content: str


class ChatRequest(BaseModel):
    """The fields that the bench sends."""

    model: str
    messages: list[Message]
    max_tokens: int
    stream: bool


app = FastAPI()


@app.get("/health")
async def ready() -> dict[str, str]:
    """As ours."""
    return {"status": "ready"}


@app.post("/v1/chat/completions")
async def chat(request: ChatRequest) -> StreamingResponse:
    """A streamed chat, chunk by chunk."""
    return StreamingResponse(_chunks(request.max_tokens), media_type="text/event-stream")


async def _chunks(num_tokens: int) -> AsyncIterator[str]:
    head = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": MODEL,
    }
    yield _frame(head, {"role": "assistant", "content": ""}, None)
    for _ in range(num_tokens):
        yield _frame(head, {"content": WORD}, None)
    yield _frame(head, {}, "length")
    yield "data: [DONE]\n\n"


def _frame(head: dict[str, Any], delta: dict[str, str], reason: str | None) -> str:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
