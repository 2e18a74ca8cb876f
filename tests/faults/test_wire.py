"""Broken, slow and greedy peers on real connections: the worker stays, others are served."""

import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import httpx
import pytest
from faulty import PARTS, Faulty, Sized

BODY = b'{"model":"demo","stream":true,"messages":[{"role":"user","content":"flood"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
VALID = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY

MALFORMED = [
    b"\r\n" * 1000,
    b"GET /health/ready HTTP/1.1\r\n\r\n",
    b"GET /health/ready HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /health/ready HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    b"GET http://evil.example/health/ready HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%ff%00/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    HEAD + b"Content-Length: -1\r\n\r\n",
    HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
    HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
    HEAD + b"".join(b"X-%d: 1\r\n" % at for at in range(200)) + b"\r\n",
    HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
]


ODD = [
    b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nX: \xff\r\n\r\n",
    b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nAuthorization: \xff\xff\r\n\r\n",
    b"GET /health/ready?\xff=%00 HTTP/1.0\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: \xe9\r\n\r\n",
]
"""Strange, but allowed."""


def connect(server: Faulty, receive_buffer: int | None = None) -> socket.socket:
    url = urlsplit(server.url)
    peer = socket.socket()
    if receive_buffer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.settimeout(15)
    peer.connect((url.hostname, url.port))
    return peer


def answer(server: Faulty, sent: bytes) -> bytes:
    """The first bytes that come back; none if the server just hangs up."""
    with connect(server) as peer:
        try:
            peer.sendall(sent)
            return peer.recv(200)
        except ConnectionError:
            return b""


def test_malformed_requests_are_refused_and_the_worker_stays(
    faulty: Faulty, sized: Sized, part: int
) -> None:
    first, rng = faulty.worker, random.Random(7 + part)
    for sent in MALFORMED:
        got = answer(faulty, sent)
        assert not got.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")), sent[:80]
    for sent in ODD:
        assert not answer(faulty, sent).startswith(b"HTTP/1.1 5"), sent
    broken = [breaks(rng) for _ in range(sized(200, 100_000 // PARTS))]
    with ThreadPoolExecutor(64) as pool:  # some are waited for until their headers are overdue
        for sent, got in zip(broken, pool.map(partial(answer, faulty), broken), strict=True):
            assert not got.startswith(b"HTTP/1.1 5"), sent
    assert (faulty.worker, faulty.status()) == (first, 200)


def breaks(rng: random.Random) -> bytes:
    """A request with a few other bytes in its head."""
    broken = bytearray(VALID)
    for _ in range(rng.randint(1, 8)):
        broken[rng.randrange(len(HEAD))] = rng.randrange(256)
    return bytes(broken) + b"\r\n\r\n"


def test_peers_that_never_finish_their_headers_keep_nobody_out(
    faulty: Faulty, sized: Sized
) -> None:
    peers = [connect(faulty) for _ in range(sized(100, 500))]
    for peer in peers:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: loc")
    start = time.monotonic()
    assert httpx.get(f"{faulty.url}/version").status_code == 200
    assert time.monotonic() - start < 1
    for peer in peers:
        peer.recv(1000)  # a refusal, or the end of the connection
        peer.close()
    assert time.monotonic() - start < 12


def test_no_prompt_and_no_key_reaches_logs_spans_or_metrics(faulty: Faulty) -> None:
    canary = "canary-7c1f"
    faulty.ask(canary, max_tokens=5)
    faulty.ask(canary, temperature=canary)
    faulty.ask(canary, stop=[canary])
    headers = {"authorization": f"Bearer {canary}", "x-api-key": canary}
    httpx.post(f"{faulty.url}/v1/completions", content=f"{{{canary}", headers=headers)
    httpx.get(f"{faulty.url}/v1/models", params={"key": canary}, headers=headers)
    assert faulty.log.read_text().count('"request"') >= 5
    assert faulty.log.read_text().count('"trace_id"') >= 5
    assert canary not in faulty.log.read_text()
    assert canary not in httpx.get(f"{faulty.url}/metrics").text


@pytest.mark.parametrize("num_slow", [4])
def test_readers_that_stall_are_given_up_and_others_do_not_notice(
    faulty: Faulty, num_slow: int, sized: Sized
) -> None:
    num_slow = sized(num_slow, 64)
    peers = [connect(faulty, receive_buffer=4096) for _ in range(num_slow)]
    for peer in peers:
        peer.sendall(VALID)
        peer.recv(100)
    start = time.monotonic()
    assert faulty.ask("hi").status_code == 200
    assert time.monotonic() - start < 5
    given_up = '"error": "slow_consumer"'
    faulty.until(lambda: faulty.log.read_text().count(given_up) == num_slow)
    for peer in peers:
        peer.close()
    assert faulty.status() == 200
