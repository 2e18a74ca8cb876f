"""The shipped dashboard asks only for what the server exports."""

import json
import re
from pathlib import Path
from typing import Any

from litestar.testing import TestClient
from wire import CHAT, chat

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "mlxspec.json"


def test_every_name_in_the_dashboard_is_exported(client: TestClient[Any]) -> None:
    client.post(CHAT, json=chat())
    exported = set(re.findall(r"^([\w:]+)", client.get("/metrics").text, re.MULTILINE))
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"mlxspec:\w+|process_\w+", target["expr"])
    }
    assert len(asked) > 20
    assert asked <= exported


def test_answers_are_counted_by_route_and_status(client: TestClient[Any]) -> None:
    client.post(CHAT, json=chat())
    client.get("/nothing/there")
    text = client.get("/metrics").text
    assert f'mlxspec:http_requests_total{{route="{CHAT}",status="200"}} 1.0' in text
    assert 'mlxspec:http_requests_total{route="unmatched",status="404"} 1.0' in text
