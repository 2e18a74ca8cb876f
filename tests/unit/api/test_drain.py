"""Draining: the engine stops once, and running answers end first."""

import asyncio

from fake_engine import FakeEngine
from litestar import Litestar
from wire import CHAT, Peer, chat, sse_frames

from mlxspec.api.app import create_app
from mlxspec.api.drain import Drain
from mlxspec.config import Config


async def test_the_engine_is_stopped_once_however_many_ask(engine: FakeEngine) -> None:
    drain = Drain(engine, 1.0)
    async with drain.lifespan(Litestar([])):
        await asyncio.gather(drain.stop(), drain.stop())
    assert engine.log == ["start", "stop after 1.0"]


async def test_a_draining_app_refuses_the_new_and_finishes_the_old(engine: FakeEngine) -> None:
    go_on = asyncio.Event()
    engine.script = ["Hello", go_on, " world"]
    drain = Drain(engine, 5.0)
    app = create_app(engine, Config(), drain=drain)
    old = Peer(app, CHAT, chat(stream=True))
    running = asyncio.create_task(old.run())
    generation = await engine.accepted.get()
    await generation.waiting.wait()

    stopping = asyncio.create_task(drain.stop())
    await asyncio.sleep(0.02)
    new = Peer(app, CHAT, chat(stream=True))
    await new.run()
    assert new.status == 503
    assert not stopping.done()

    go_on.set()
    await asyncio.gather(running, stopping)
    assert " world" in old.body
    assert old.body.endswith("data: [DONE]\n\n")


async def test_asking_twice_waits_for_the_first(engine: FakeEngine) -> None:
    engine.script = [0.05, "late"]
    drain = Drain(engine, 5.0)
    app = create_app(engine, Config(), drain=drain)
    running = asyncio.create_task(Peer(app, CHAT, chat()).run())
    await engine.accepted.get()
    first = asyncio.create_task(drain.stop())
    await asyncio.sleep(0)
    await drain.stop()
    assert first.done()
    await running


async def test_a_stream_that_outlives_the_drain_ends_with_an_error_frame(
    engine: FakeEngine,
) -> None:
    engine.script = ["Hello", asyncio.Event()]
    drain = Drain(engine, 0.05)
    app = create_app(engine, Config(), drain=drain)
    peer = Peer(app, CHAT, chat(stream=True))
    running = asyncio.create_task(peer.run())
    await engine.accepted.get()
    await asyncio.gather(running, drain.stop())
    assert sse_frames(peer.body)[-1]["error"]["code"] == "unavailable"
