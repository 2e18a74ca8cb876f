"""A client so light that the server sets the pace: it counts frames and parses none."""

import asyncio
import json

from layer.script import MODEL

END = b"data: [DONE]\n\n"
LIMIT = 1 << 24
"""Bytes of the longest answer."""


async def stream_all(port: int, streams: int, requests: int, num_tokens: int) -> int:
    """So many streams at once, each of so many requests in turn; the number of frames read."""
    counts = await asyncio.gather(*(_stream(port, requests, num_tokens) for _ in range(streams)))
    return sum(counts)


async def _stream(port: int, requests: int, num_tokens: int) -> int:
    frames, left = 0, requests
    while left:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LIMIT)
        is_open = True
        while left and is_open:
            writer.write(_request(port, num_tokens))
            count, is_open = await _read_answer(reader)
            frames, left = frames + count, left - 1
        writer.close()
        await writer.wait_closed()
    return frames


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Frames of one answer, and whether the connection takes another request.

    It ends with the last chunk, or with its connection where the server speaks HTTP/1.0.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head[:20], head
    is_open = head.startswith(b"HTTP/1.1")
    body = await (reader.readuntil(b"0\r\n\r\n") if is_open else reader.read())
    assert END in body
    return body.count(b"data: "), is_open


def _request(port: int, num_tokens: int) -> bytes:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": num_tokens,
        "stream": True,
    }
    raw = json.dumps(body).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\n"
    head += f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
