"""Files and batches: kept for their owner, bounded, worked on, resumed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from litestar.testing import TestClient
from wire import LOCAL, assert_error

from mlxspec.api.app import create_app
from mlxspec.config import BatchesConfig, Config
from mlxspec.errors import QueueFullError

FILES, BATCHES = "/v1/files", "/v1/batches"
CHAT = "/v1/chat/completions"
CHAT_BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


def config(folder: Path, **bounds: int) -> Config:
    return Config(batches=BatchesConfig(dir=str(folder), **bounds))


@pytest.fixture
def batching(engine: FakeEngine, tmp_path: Path) -> Iterator[TestClient[Any]]:
    """A client of an app that keeps its files in the test's folder."""
    with TestClient(create_app(engine, config(tmp_path)), LOCAL) as client:
        yield client


def line(custom_id: str, body: Any = CHAT_BODY, url: str = CHAT) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def upload(client: TestClient[Any], content: str) -> Any:
    form = {"file": ("in.jsonl", content.encode(), "application/jsonl")}
    return client.post(FILES, files=form, data={"purpose": "batch"})


def begin(client: TestClient[Any], content: str, endpoint: str = CHAT) -> dict[str, Any]:
    file = upload(client, content).json()["id"]
    body = {"input_file_id": file, "endpoint": endpoint, "completion_window": "24h"}
    batch: dict[str, Any] = client.post(BATCHES, json=body).json()
    return batch


def ended(client: TestClient[Any], batch: dict[str, Any]) -> dict[str, Any]:
    for _ in range(200):
        batch = client.get(f"{BATCHES}/{batch['id']}").json()
        if batch["status"] not in {"in_progress", "cancelling"}:
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def answers(client: TestClient[Any], file_id: str) -> dict[str, Any]:
    text = client.get(f"{FILES}/{file_id}/content").text
    told = [json.loads(line) for line in text.splitlines()]
    return {answer["custom_id"]: answer["response"] for answer in told}


def test_a_file_is_kept_listed_read_and_deleted(batching: TestClient[Any]) -> None:
    file = upload(batching, "one\ntwo\n").json()
    assert (file["bytes"], file["filename"], file["purpose"]) == (8, "in.jsonl", "batch")
    assert batching.get(f"{FILES}/{file['id']}").json() == file
    assert batching.get(FILES).json()["data"] == [file]
    assert batching.get(FILES, params={"purpose": "other"}).json()["data"] == []
    assert batching.get(f"{FILES}/{file['id']}/content").content == b"one\ntwo\n"
    assert batching.delete(f"{FILES}/{file['id']}").json()["deleted"] is True
    assert_error(batching.get(f"{FILES}/{file['id']}"), 404, "file_id", "file_not_found")


def test_all_endpoints_answer_as_they_do_alone(
    batching: TestClient[Any], engine: FakeEngine
) -> None:
    bodies = {
        CHAT: CHAT_BODY,
        "/v1/completions": {"model": "demo", "prompt": ["a", "b"]},
        "/v1/responses": {"model": "demo", "input": "hi"},
    }
    for url, body in bodies.items():
        batch = ended(batching, begin(batching, line("x", body, url), url))
        assert (batch["status"], batch["error_file_id"]) == ("completed", None)
        assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
        told = answers(batching, batch["output_file_id"])["x"]
        alone = batching.post(url, json=body).json()
        assert told["status_code"] == 200
        assert told["body"].keys() == alone.keys()
        assert told["body"]["object"] == alone["object"]
    assert all(generation.closed for generation in engine.generations)


def test_batches_stand_behind_everybody(batching: TestClient[Any], engine: FakeEngine) -> None:
    ended(batching, begin(batching, line("a", {**CHAT_BODY, "service_tier": "priority"})))
    assert [request.priority for request in engine.requests] == [360]


def test_texts_of_a_batch_are_embedded_behind_everybody(
    batching: TestClient[Any], engine: FakeEngine
) -> None:
    url, body = "/v1/embeddings", {"model": "demo", "input": ["a", "bb"]}
    batch = ended(batching, begin(batching, line("a", body, url), url))
    told = answers(batching, batch["output_file_id"])["a"]["body"]
    assert told == batching.post(url, json=body).json()
    assert [request.priority for request in engine.read] == [360, 0]


def test_a_wrong_request_fails_alone(batching: TestClient[Any]) -> None:
    wrong = {**CHAT_BODY, "temperature": 9}
    streamed = {**CHAT_BODY, "stream": True}
    text = "\n".join([line("a"), line("b", wrong), "", line("c"), line("d", streamed)])
    batch = ended(batching, begin(batching, text))
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    assert answers(batching, batch["output_file_id"]).keys() == {"a", "c"}
    refused = answers(batching, batch["error_file_id"])
    assert {name: told["body"]["error"]["param"] for name, told in refused.items()} == {
        "b": "temperature",
        "d": "stream",
    }
    assert {told["status_code"] for told in refused.values()} == {400}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "0 requests"),
        ("not json", "cannot be read"),
        ('{"custom_id": "a"}', "cannot be read"),
        (line("a", url="/v1/completions"), "endpoint"),
        (f"{line('a')}\n{line('a')}", "twice"),
    ],
)
def test_a_file_with_faults_makes_a_failed_batch(
    batching: TestClient[Any], engine: FakeEngine, content: str, said: str
) -> None:
    batch = begin(batching, content)
    assert batch["status"] == "failed"
    assert said in batch["errors"]["data"][0]["message"]
    assert engine.requests == []


def test_a_busy_server_is_asked_again(batching: TestClient[Any], engine: FakeEngine) -> None:
    engine.refusal = QueueFullError("full", retry_after=0)
    batch = begin(batching, line("a"))
    time.sleep(0.1)
    assert batching.get(f"{BATCHES}/{batch['id']}").json()["status"] == "in_progress"
    engine.refusal = None
    assert ended(batching, batch)["status"] == "completed"


def test_a_cancelled_batch_tells_what_it_did(batching: TestClient[Any], engine: FakeEngine) -> None:
    engine.script = [0.2, "late"]
    text = "\n".join(line(str(number)) for number in range(50))
    batch = begin(batching, text)
    ending = batching.post(f"{BATCHES}/{batch['id']}/cancel").json()
    assert ending["status"] == "cancelling"
    batch = ended(batching, batch)
    assert batch["status"] == "cancelled"
    assert batch["request_counts"]["completed"] < 50
    assert_error(batching.post(f"{BATCHES}/{batch['id']}/cancel"), 400)


def test_an_unfinished_batch_begins_anew_after_a_restart(
    engine: FakeEngine, tmp_path: Path
) -> None:
    engine.script = [5.0, "never"]
    with TestClient(create_app(engine, config(tmp_path)), LOCAL) as first:
        batch = begin(first, line("a"))
    again = FakeEngine()
    with TestClient(create_app(again, config(tmp_path)), LOCAL) as second:
        assert ended(second, batch)["status"] == "completed"
        assert [file["purpose"] for file in second.get(FILES).json()["data"]].count("batch") == 1
    assert len(again.requests) == 1


def test_bounds_are_named(engine: FakeEngine, tmp_path: Path) -> None:
    app = create_app(engine, config(tmp_path, max_bytes=400, max_requests=1))
    with TestClient(app, LOCAL) as client:
        batch = begin(client, f"{line('a')}\n{line('b')}")
        assert "send 1 to 1" in batch["errors"]["data"][0]["message"]
        assert "delete some" in assert_error(upload(client, "x" * 300), 400, "file")


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"files": {"file": ("a", b"x")}}, "purpose"),
        ({"files": {"other": ("a", b"x")}, "data": {"purpose": "batch"}}, "file"),
        ({"json": {"file": "x"}}, None),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, None),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, None),
    ],
)
def test_a_form_that_is_none_is_refused(
    batching: TestClient[Any], form: Any, param: str | None
) -> None:
    assert_error(batching.post(FILES, **form), 400, param)


def test_what_is_not_there_is_404(batching: TestClient[Any]) -> None:
    assert_error(batching.get(f"{BATCHES}/batch_1"), 404, None, "batch_not_found")
    body = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}
    assert_error(batching.post(BATCHES, json=body), 404, "file_id", "file_not_found")
    assert_error(batching.post(BATCHES, json={**body, "endpoint": "/v1/other"}), 400, "endpoint")
    assert batching.get(BATCHES).json()["data"] == []
