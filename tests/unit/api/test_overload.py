"""Too much at once, too slowly, or for too long: bounded, answered, and given back."""

import asyncio
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from structlog.testing import capture_logs
from wire import CHAT, Peer, assert_error, chat

from mlxspec.api.app import create_app
from mlxspec.config import Config, LimitsConfig


def peer(engine: FakeEngine, body: dict[str, Any], **limits: Any) -> Peer:
    return Peer(create_app(engine, Config(limits=LimitsConfig(**limits))), CHAT, body)


async def test_bodies_of_all_clients_together_are_bounded(engine: FakeEngine) -> None:
    engine.script = [asyncio.Event()]
    app = create_app(engine, Config(limits=LimitsConfig(max_held_bytes=500)))
    large = chat(user="x" * 300)
    first, second = Peer(app, CHAT, large), Peer(app, CHAT, large)
    running = asyncio.create_task(first.run())
    await engine.accepted.get()
    await second.run()
    assert second.status == 429
    assert '"queue_full"' in second.body
    first.leave()
    await running
    engine.script = ["done"]
    third = Peer(app, CHAT, large)
    await third.run()
    assert third.status == 200


async def test_one_body_alone_may_be_as_large_as_a_body_may_be(engine: FakeEngine) -> None:
    alone = peer(engine, chat(user="x" * 300), max_held_bytes=100)
    await alone.run()
    assert alone.status == 200


async def test_a_reader_that_stalls_is_given_up(engine: FakeEngine) -> None:
    engine.script = ["word "] * 100
    slow = peer(engine, chat(stream=True), stall_seconds=0.05)
    stuck = asyncio.Event()

    async def send(event: Any) -> None:
        slow.events.append(event)
        if len(slow.events) == 3:
            await stuck.wait()

    slow._send = send  # type: ignore[method-assign]
    with capture_logs() as lines:
        await slow.run()
    assert len(slow.events) == 3
    assert engine.generations[0].closed_while_running
    assert lines[-1]["error"] == "slow_consumer"


async def test_a_body_that_dribbles_is_408(engine: FakeEngine) -> None:
    slow = peer(engine, chat(), body_seconds=0.05)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    slow._receive = receive  # type: ignore[method-assign]
    await slow.run()
    assert slow.status == 408


def test_a_clients_own_deadline_reaches_the_engine(
    client: TestClient[Any], engine: FakeEngine
) -> None:
    client.post(CHAT, json=chat(), headers={"x-request-timeout-ms": "1500"})
    client.post(CHAT, json=chat())
    assert [it.timeout_seconds for it in engine.requests] == [1.5, None]
    for wrong in ("0", "-1", "soon", "1e3", "", "9999999999"):
        response = client.post(CHAT, json=chat(), headers={"x-request-timeout-ms": wrong})
        assert "send milliseconds" in assert_error(response, 400)


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_come_before_the_first_byte_and_say_when(
    client: TestClient[Any], engine: FakeEngine, stream: bool
) -> None:
    from mlxspec.errors import QueueFullError

    engine.refusal = QueueFullError("full: try again later", retry_after=7)
    response = client.post(CHAT, json=chat(stream=stream))
    assert_error(response, 429, code="queue_full")
    assert response.headers["retry-after"] == "7"
