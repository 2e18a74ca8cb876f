"""The crash-loop breaker counts deaths in a minute."""

from mlxspec.crash_loop import CrashLoop


def test_five_deaths_in_a_minute_are_a_loop() -> None:
    loop = CrashLoop()
    assert [loop.died(now) for now in (0, 15, 30, 45, 60)] == [False] * 4 + [True]


def test_rare_deaths_are_not() -> None:
    loop = CrashLoop()
    assert not any(loop.died(16.0 * at) for at in range(100))
