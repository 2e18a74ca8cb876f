"""Workers that die, hang or are told to stop: nobody waits in vain, and a fresh one serves."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from faulty import Faulty, Sized, outcome

STREAMS = 64
BROKEN_SECONDS = 5
BACK_SECONDS = 10
UNAVAILABLE = 503


def test_a_killed_worker_breaks_its_streams_at_once_and_is_replaced(
    faulty: Faulty, sized: Sized
) -> None:
    for _ in range(sized(1, 50)):
        # Deaths that come fast end the server: two within 5.5 s, by Granian, and five in a minute.
        time.sleep(sized(6, 14))
        faulty.until(lambda: faulty.status() == 200)
        with ThreadPoolExecutor(STREAMS) as pool:
            streams = [pool.submit(outcome, faulty) for _ in range(STREAMS)]
            time.sleep(0.8)
            killed = time.monotonic()
            os.kill(faulty.worker, signal.SIGKILL)
            ends = [stream.result() for stream in streams]
        cut = [how for how, at in ends if at > killed]
        assert set(cut) <= {"broken", "error"}
        assert len(cut) > STREAMS / 2, "most had ended before: this machine is too slow"
        assert max(at for _, at in ends) - killed < BROKEN_SECONDS
        faulty.until(lambda: faulty.status() == 200, BACK_SECONDS)


@pytest.mark.parametrize("fault", ["hang a step", "end the engine", "hang the event loop"])
def test_a_worker_that_can_serve_no_more_is_replaced(faulty: Faulty, fault: str) -> None:
    first = faulty.worker
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(faulty.ask, fault)
        took = faulty.until(lambda: faulty.worker != first and faulty.status() == 200)
        with pytest.raises(httpx.TransportError):
            asked.result()
    assert took < BACK_SECONDS
    assert faulty.ask("hi", max_tokens=0).status_code == 200


def test_a_worker_that_dies_again_and_again_stays_down(faulty: Faulty, tmp_path: Path) -> None:
    (tmp_path / "die").touch()
    os.kill(faulty.worker, signal.SIGKILL)
    assert faulty.process.wait(60) == 1


def test_a_sigterm_at_any_time_breaks_no_stream(tmp_path: Path, sized: Sized) -> None:
    for turn in range(sized(2, 100)):
        folder = tmp_path / str(turn)
        folder.mkdir()
        server = Faulty(folder, drain_seconds=20)
        with ThreadPoolExecutor(16) as pool:
            streams = [pool.submit(outcome, server) for _ in range(16)]
            time.sleep(0.5 + random.Random(turn).random())
            server.process.send_signal(signal.SIGTERM)
            ends = {stream.result()[0] for stream in streams}
        assert "whole" in ends
        assert ends <= {"whole", "refused"}
        assert server.process.wait(25) == 0


def test_the_first_signal_waits_for_who_is_there_and_the_second_for_nobody(faulty: Faulty) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(faulty.ask, "linger")
        time.sleep(0.5)
        faulty.process.send_signal(signal.SIGTERM)
        faulty.until(lambda: faulty.status() == UNAVAILABLE, 2)
        assert not asked.done()
        faulty.process.send_signal(signal.SIGTERM)
        assert faulty.process.wait(2) == 0
        with pytest.raises(httpx.TransportError):
            asked.result()
