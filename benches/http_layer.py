"""What the HTTP layer costs per token and per request, beside two others, interleaved.

    python benches/http_layer.py
    python benches/http_layer.py --quick    # a try of the bench, not a measurement

Ours, FastAPI on uvicorn, and mlx_lm.server send scripted tokens as fast as they can, one at a
time. benches/README.md says what each figure means.
"""

import argparse
import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from layer.client import stream_all

CONTENDERS = {"ours": 3, "peer": 3, "mlx_lm_server": 2}
"""Frames that an answer has beside its tokens'."""
STREAMS = (1, 16, 64)
FIRST_PORT = 18700
START_SECONDS = 30
TOKENS, REQUESTS, ROUNDS = 512, 256, 5
"""Tokens a stream for the cost of a token; requests in all, of one token, for that of a request."""


@contextmanager
def server(contender: str, port: int) -> Iterator[int]:
    """The contender, until the block ends."""
    command = [sys.executable, "-m", f"layer.{contender}", str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parent)
    try:
        _wait_until_ready(port)
        yield port
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def seconds(contender: str, port: int, streams: int, requests: int, num_tokens: int) -> float:
    """Wall time of the work; checks that every token came."""
    started = time.perf_counter()
    frames = asyncio.run(stream_all(port, streams, requests, num_tokens))
    taken = time.perf_counter() - started
    expected = num_tokens + CONTENDERS[contender]
    assert frames == streams * requests * expected, "tokens are missing"
    return taken


def microseconds(contender: str, port: int, streams: int, scale: int) -> tuple[float, float]:
    """Of one token in a long answer, and of one request with a single token."""
    tokens, requests = TOKENS // scale, max(1, REQUESTS // streams // scale)
    per_token = seconds(contender, port, streams, 1, tokens) / (streams * tokens)
    per_request = seconds(contender, port, streams, requests, 1) / (streams * requests)
    return per_token * 1e6, per_request * 1e6


def main() -> None:
    """Measure in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little work, one round")
    quick = parser.parse_args().quick
    rounds, scale = (1, 16) if quick else (ROUNDS, 1)
    with ExitStack() as running:
        ports = {
            name: running.enter_context(server(name, FIRST_PORT + at))
            for at, name in enumerate(CONTENDERS)
        }
        print("streams  server         us/token  us/request")
        for streams in STREAMS:
            taken = {name: [] for name in CONTENDERS}
            for _ in range(rounds):
                for name in CONTENDERS:
                    taken[name].append(microseconds(name, ports[name], streams, scale))
            for name in CONTENDERS:
                token, request = (median(column) for column in zip(*taken[name], strict=True))
                print(f"{streams:7}  {name:13}  {token:8.1f}  {request:10.1f}")


if __name__ == "__main__":
    main()
