"""A load client: streamed chats over plain asyncio sockets.

It shares the machine with the server it measures, so it does little: no HTTP library, and only the
fields it needs are decoded.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from serving.failure import BenchError
from serving.prompts import Messages

ANSWER_SECONDS: Final = 600.0


class Speculation(Struct, frozen=True):
    """What mlxspec says about one request's drafts."""

    num_spec_steps: int
    num_accepted_draft_tokens: int


class Usage(Struct, frozen=True):
    """Token counts, as the server gives them."""

    prompt_tokens: int
    completion_tokens: int


class Answer(Struct, frozen=True, kw_only=True):
    """One answer. Times are of `time.perf_counter`, in seconds, taken when bytes were read."""

    text: str
    finish_reason: str
    usage: Usage
    speculation: Speculation | None
    sent_at: float
    ended_at: float
    first_share: float
    """How much of the text, by characters, came with the first piece."""
    text_at: tuple[float, ...]
    """When each piece with text came; a piece holds one token or several."""


class Question(Struct, frozen=True, kw_only=True):
    """One body of POST /v1/chat/completions, and the port to send it to."""

    port: int
    body: bytes

    @classmethod
    def of(
        cls, port: int, model: str, messages: Messages, max_tokens: int, extra: dict[str, Any]
    ) -> "Question":
        """A greedy, streamed chat; `extra` goes into the body as it is."""
        body = {
            "model": model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **extra,
        }
        return cls(port=port, body=msgspec.json.encode(body))


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Metrics(Struct):
    speculative_decoding: Speculation | None = None


class _Frame(Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    metrics: _Metrics | None = None
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Frame).decode


def ask_together(clients: Sequence[Sequence[Question]]) -> list[Answer]:
    """Let all clients ask at once, each its questions in turn; blocks until all are answered.

    Everybody is connected before anybody asks: a server's accept queue is not what is measured.
    Raises BenchError when an answer is missing or broken.
    """
    return asyncio.run(_ask_together(clients))


async def _ask_together(clients: Sequence[Sequence[Question]]) -> list[Answer]:
    all_connected = asyncio.Barrier(len(clients))

    async def client(questions: Sequence[Question]) -> list[Answer]:
        answers = []
        for index, question in enumerate(questions):
            async with _connection(question.port) as (reader, writer):
                if index == 0:
                    await all_connected.wait()
                answers.append(await _ask(question, reader, writer))
        return answers

    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answered = await asyncio.gather(*map(client, clients))
    except TimeoutError:
        raise BenchError(f"no answer within {ANSWER_SECONDS:.0f} s") from None
    except (OSError, EOFError, msgspec.DecodeError) as error:
        raise BenchError(f"a stream broke off: {error!r}") from None
    return [answer for answers in answered for answer in answers]


@contextlib.asynccontextmanager
async def _connection(
    port: int,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _ask(
    question: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Answer:
    sent_at = time.perf_counter()
    writer.write(_head(question) + question.body)
    chunked = await _read_head(reader)
    text, text_at, finish_reason = [], [], ""
    usage, speculation = None, None
    async for data in _events(reader, chunked):
        now = time.perf_counter()
        frame = _decode(data)
        if bytes(frame.error):
            raise BenchError(f"the server answered with an error: {bytes(frame.error).decode()}")
        for choice in frame.choices:
            finish_reason = choice.finish_reason or finish_reason
            if choice.delta.content:
                text.append(choice.delta.content)
                text_at.append(now)
        usage = frame.usage or usage
        if frame.metrics:
            speculation = frame.metrics.speculative_decoding
    if usage is None or not text:
        raise BenchError("an answer came without text or without usage")
    return Answer(
        text="".join(text),
        finish_reason=finish_reason,
        usage=usage,
        speculation=speculation,
        sent_at=sent_at,
        ended_at=time.perf_counter(),
        first_share=len(text[0]) / sum(map(len, text)),
        text_at=tuple(text_at),
    )


def _head(question: Question) -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{question.port}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(question.body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()


async def _read_head(reader: asyncio.StreamReader) -> bool:
    """Whether the body that follows is chunked; BenchError unless the status is 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head.split(maxsplit=2)[1]
    if status != "200":
        reason = (await reader.read(500)).decode(errors="replace")
        raise BenchError(f"the server answered {status}: {reason}")
    return "transfer-encoding: chunked" in head


async def _events(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    """The data of each event up to [DONE]; EOFError when that does not come."""
    async for line in _lines(reader, chunked):
        if line.startswith(b"data:"):
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield data
    raise EOFError("no [DONE]")


async def _lines(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    if not chunked:
        while line := await reader.readline():
            yield line
        return
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        *lines, rest = (rest + await reader.readexactly(size)).split(b"\n")
        await reader.readexactly(2)
        for line in lines:
            yield line
