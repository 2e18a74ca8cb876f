"""How a response is told: whole, or as numbered events."""

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from mlxspec.api.answer import deltas
from mlxspec.api.error_form import ErrorForm
from mlxspec.api.openai.responses.convert import input_messages
from mlxspec.api.openai.responses.events import ErrorEvent, Event, ResponseEvent
from mlxspec.api.openai.responses.output import Output
from mlxspec.api.openai.responses.params import Item, ResponseParams
from mlxspec.api.openai.responses.schema import IncompleteDetails, Response, ResponseUsage
from mlxspec.api.openai.service_tier import used_tier
from mlxspec.api.ports import GenerationLike
from mlxspec.api.stream import SSE, Framing
from mlxspec.engine.request import FinishReason, Message
from mlxspec.errors import MlxspecError


class ResponseWording:
    """Words one response, once: by `whole` or by `events`."""

    def __init__(self, response_id: str, model: str, params: ResponseParams) -> None:
        self._output = Output(response_id)
        self._next_number = 0
        self.response = _begun(response_id, model, params)
        """The response as it stands."""

    @property
    def framing(self) -> Framing:
        """Server-sent events by name, the last one of a broken stream numbered like the others."""
        return SSE._replace(end=b"", errors=ErrorForm(self._error, ErrorEvent), named=True)

    async def whole(self, generation: GenerationLike, idle_seconds: float) -> Response:
        """The finished response; raises what a generation raises."""
        async with aclosing(self.events(generation, idle_seconds)) as events:
            async for _ in events:
                pass
        return self.response

    async def events(
        self, generation: GenerationLike, idle_seconds: float
    ) -> AsyncGenerator[Struct | None]:
        """The events in order; None where the client should hear that we live."""
        yield self._numbered(ResponseEvent(type="response.created", response=self.response))
        yield self._numbered(ResponseEvent(type="response.in_progress", response=self.response))
        async with aclosing(deltas(generation, idle_seconds)) as news:
            async for delta in news:
                if delta is None:
                    yield None
                    continue
                for event in self._output.take(delta):
                    yield self._numbered(event)
                if delta.finish_reason:
                    for event in self._end(delta.finish_reason, generation):
                        yield self._numbered(event)

    def reply(self) -> list[Message]:
        """What the model said, as messages for the next turn."""
        items = msgspec.convert(msgspec.to_builtins(self.response.output), list[Item])
        return input_messages(items)

    def _end(self, reason: FinishReason, generation: GenerationLike) -> Iterator[Event]:
        whole = reason != "length"
        status: Any = "completed" if whole else "incomplete"
        yield from self._output.close(status)
        self.response = msgspec.structs.replace(
            self.response,
            status=status,
            incomplete_details=None if whole else IncompleteDetails(),
            output=self._output.items,
            usage=ResponseUsage.of(generation.usage),
            metrics=generation.metrics,
        )
        kind: Any = f"response.{status}"
        yield ResponseEvent(type=kind, response=self.response)

    def _numbered(self, event: Event) -> Event:
        event.sequence_number, self._next_number = self._next_number, self._next_number + 1
        return event

    def _error(self, error: MlxspecError) -> Struct:
        event = ErrorEvent(code=error.code, message=error.message, param=error.param)
        return self._numbered(event)


def _begun(response_id: str, model: str, params: ResponseParams) -> Response:
    """The response before its first token: what was asked, repeated."""
    return Response(
        id=response_id,
        created_at=int(time.time()),
        status="in_progress",
        instructions=params.instructions,
        max_output_tokens=params.max_output_tokens,
        metadata=params.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=params.parallel_tool_calls is not False,
        previous_response_id=params.previous_response_id,
        reasoning=params.reasoning or {"effort": None, "summary": None},
        store=params.store is not False,
        temperature=1.0 if params.temperature is None else params.temperature,
        text=params.text or {"format": {"type": "text"}},
        tool_choice=params.tool_choice or "auto",
        tools=params.tools or [],
        top_p=1.0 if params.top_p is None else params.top_p,
        truncation=params.truncation or "disabled",
        service_tier=used_tier(params.service_tier),
        user=params.user,
    )
