"""The time of day jumps by an hour, either way, under 16 streams: nobody notices."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from faulty import Faulty, outcome

STREAMS = 16
HOUR = 3600


@pytest.mark.parametrize("seconds", [HOUR, -HOUR])
def test_a_wall_clock_that_jumps_ends_no_request_and_no_worker(
    faulty: Faulty, seconds: float
) -> None:
    first = faulty.worker
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(outcome, faulty) for _ in range(STREAMS)]
        time.sleep(0.5)
        assert faulty.ask(f"jump {seconds}").status_code == 200
        assert {stream.result()[0] for stream in streams} == {"whole"}
    created = faulty.ask("hi").json()["created"]
    assert created == pytest.approx(time.time() + seconds, abs=60), "the clock did jump"
    log = faulty.log.read_text()
    assert "slow_consumer" not in log
    assert (faulty.worker, faulty.status()) == (first, 200)
    os.kill(first, 0)
    assert httpx.get(f"{faulty.url}/health/live").status_code == 200
