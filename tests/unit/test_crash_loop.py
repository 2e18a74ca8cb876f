"""The crash-loop breaker counts deaths in a minute, and stops a Granian that it knows."""

from typing import Any

import pytest
from granian import Granian
from structlog.testing import capture_logs

from mlxspec.crash_loop import MAX_DEATHS, NEEDED, CrashLoop, stop_crash_loops


def test_five_deaths_in_a_minute_are_a_loop() -> None:
    loop = CrashLoop()
    assert [loop.died(now) for now in (0, 15, 30, 45, 60)] == [False] * 4 + [True]


def test_rare_deaths_are_not() -> None:
    loop = CrashLoop()
    assert not any(loop.died(16.0 * at) for at in range(100))


class FakeServer:
    """What the breaker needs of Granian's server."""

    def __init__(self) -> None:
        self.interrupt_children: list[int] = []
        self.respawned: list[tuple[Any, ...]] = []
        self.stopped = False

    def _respawn_workers(self, *arguments: Any, **options: Any) -> None:
        self.respawned.append((arguments, options))

    def signal_handler_interrupt(self) -> None:
        self.stopped = True


def test_a_looping_worker_stays_down_and_the_server_ends_with_an_error() -> None:
    server = FakeServer()
    stop_crash_loops(server)
    for _ in range(MAX_DEATHS):
        server._respawn_workers([0], "whatever", more="granian passes on")
    again = (([0], "whatever"), {"more": "granian passes on"})
    assert server.respawned == [again] * (MAX_DEATHS - 1)
    assert (server.stopped, server.interrupt_children) == (True, [0])


@pytest.mark.parametrize("missing", NEEDED)
def test_a_granian_that_has_changed_is_served_with_and_warned_of(missing: str) -> None:
    class Changed(FakeServer):
        def __getattribute__(self, name: str) -> Any:
            if name == missing:
                raise AttributeError(name)
            return super().__getattribute__(name)

    with capture_logs() as lines:
        stop_crash_loops(Changed())
    assert [line["missing"] for line in lines] == [[missing]]


def test_the_installed_granian_is_known() -> None:
    with capture_logs() as lines:
        stop_crash_loops(Granian("mlxspec", interface="asgi"))
    assert lines == []
