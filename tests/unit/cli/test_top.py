"""`mlxspec top`: figures from a scrape, and from two of them."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner

from mlxspec.cli import cli
from mlxspec.cli.top import parse, rates

TEXT = """# HELP mlxspec:steps_total Steps.
mlxspec:steps_total {steps}
mlxspec:requests_running 3.0
mlxspec:kv_blocks_total 200.0
mlxspec:kv_blocks_used 50.0
mlxspec:http_requests_total{{route="/v1/models",status="200"}} 2.0
mlxspec:http_requests_total{{route="/a b",status="404"}} 1.0
process_resident_memory_bytes 1.048576e+06
"""


def test_samples_are_read_and_labels_summed_up() -> None:
    samples = parse(TEXT.format(steps=10))
    assert samples["steps_total"] == 10
    assert samples["http_requests_total"] == 3
    assert samples["process_resident_memory_bytes"] == 1 << 20


def test_rates_are_by_second_and_survive_a_restart() -> None:
    assert rates({"a": 10, "b": 10}, {"a": 30, "b": 4, "c": 2}, 2.0) == {"a": 10, "b": 2, "c": 1}


@pytest.fixture
def url() -> Iterator[str]:
    """A server whose steps grow by a hundred with every scrape."""
    steps = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            steps[0] += 100
            body = TEXT.format(steps=steps[0]).encode()
            self.send_response(200 if self.headers["authorization"] == "Bearer k" else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_look_shows_what_the_server_does(url: str) -> None:
    arguments = ["top", "--url", url, "--interval", "0.1", "--times", "1"]
    seen = CliRunner().invoke(cli, [*arguments, "--api-key", "k"]).output
    assert "running" in seen
    assert "25%" in seen
    assert "1.0 MiB" in seen
    refused = CliRunner().invoke(cli, arguments)
    assert refused.exit_code == 1
    assert "401" in refused.output
