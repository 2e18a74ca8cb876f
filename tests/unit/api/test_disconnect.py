"""Clients that leave: nothing goes on running for them."""

import asyncio
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar import Litestar
from litestar.exceptions import LitestarException
from wire import CHAT, COMPLETIONS, Peer, chat, completion


@pytest.fixture
def stuck(engine: FakeEngine) -> FakeEngine:
    """An engine that gives one token and then none."""
    engine.script = ["Hello", asyncio.Event()]
    return engine


async def test_leaving_mid_stream_closes_the_generation(app: Litestar, stuck: FakeEngine) -> None:
    peer = Peer(app, CHAT, chat(stream=True))

    def leave_after_hello(event: dict[str, Any]) -> None:
        if b"Hello" in event.get("body", b""):
            peer.leave()

    peer.on_send = leave_after_hello
    await peer.run()
    assert stuck.generations[0].closed_while_running


async def test_leaving_before_the_stream_starts_closes_the_generation(
    app: Litestar, stuck: FakeEngine
) -> None:
    peer = Peer(app, CHAT, chat(stream=True))
    peer.leave()
    await peer.run()
    assert stuck.generations[0].closed_while_running


async def test_leaving_while_nothing_comes_closes_the_generation(
    app: Litestar, engine: FakeEngine
) -> None:
    engine.script = [asyncio.Event()]
    peer = Peer(app, CHAT, chat(stream=True))
    running = asyncio.create_task(peer.run())
    generation = await engine.accepted.get()
    await generation.waiting.wait()
    peer.leave()
    await running
    assert generation.closed_while_running


async def test_leaving_a_whole_answer_closes_the_generation_at_once(
    app: Litestar, stuck: FakeEngine
) -> None:
    peer = Peer(app, CHAT, chat())
    running = asyncio.create_task(peer.run())
    generation = await stuck.accepted.get()
    await generation.waiting.wait()
    peer.leave()
    await running
    assert generation.closed_while_running
    assert peer.status == 499


async def test_leaving_closes_all_of_several_prompts(app: Litestar, stuck: FakeEngine) -> None:
    for stream in (False, True):
        peer = Peer(app, COMPLETIONS, completion(prompt=["a", "b"], stream=stream))
        running = asyncio.create_task(peer.run())
        generations = [await stuck.accepted.get() for _ in range(2)]
        peer.leave()
        await running
        assert all(generation.closed_while_running for generation in generations)


async def test_a_server_that_cancels_the_handler_closes_the_generation(
    app: Litestar, stuck: FakeEngine
) -> None:
    for stream in (False, True):
        running = asyncio.create_task(Peer(app, CHAT, chat(stream=stream)).run())
        generation = await stuck.accepted.get()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert generation.closed_while_running


async def test_no_task_outlives_its_request(app: Litestar, engine: FakeEngine) -> None:
    for stream in (False, True):
        peer = Peer(app, COMPLETIONS, completion(prompt=["a", "b"], stream=stream))
        await peer.run()
        assert peer.status == 200
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_send_that_fails_closes_the_generation(app: Litestar, stuck: FakeEngine) -> None:
    peer = Peer(app, CHAT, chat(stream=True))

    def broken_pipe(event: dict[str, Any]) -> None:
        if b"Hello" in event.get("body", b""):
            raise OSError("broken pipe")

    peer.on_send = broken_pipe
    with pytest.raises(LitestarException):
        await peer.run()
    assert stuck.generations[0].closed_while_running


async def test_the_generation_is_closed_before_the_last_byte(
    app: Litestar, engine: FakeEngine
) -> None:
    peer = Peer(app, CHAT, chat(stream=True))
    closed_at_end = []

    def look(event: dict[str, Any]) -> None:
        if event["type"] == "http.response.body" and not event["more_body"]:
            closed_at_end.append(engine.generations[0].closed)

    peer.on_send = look
    await peer.run()
    assert closed_at_end == [True]
