"""`mlxspec run` against a server of canned answers."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from stub_server import StubServer, stub_server

from mlxspec.cli import cli
from mlxspec.cli.client import Client
from mlxspec.cli.run import Chat


@pytest.fixture
def server() -> Iterator[StubServer]:
    with stub_server() as server:
        yield server


def run(server: StubServer, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(cli, ["run", *arguments, "--url", server.url], input=typed)


def test_a_prompt_is_answered_on_standard_output(server: StubServer) -> None:
    done = run(server, "demo", "Hi", "--temperature", "0", "--max-tokens", "5", "--system", "Be.")
    assert (done.exit_code, done.stdout) == (0, "Hello\n")
    [chat] = server.chats
    assert chat["messages"] == [
        {"role": "system", "content": "Be."},
        {"role": "user", "content": "Hi"},
    ]
    assert (chat["model"], chat["temperature"], chat["max_tokens"]) == ("demo", 0, 5)
    assert chat["stream"] is True


def test_standard_input_is_a_prompt_too(server: StubServer) -> None:
    assert run(server, typed="What\nis this?\n").stdout == "Hello\n"
    assert server.chats[0]["messages"][-1]["content"] == "What\nis this?"


def test_a_key_is_sent_along(server: StubServer) -> None:
    run(server, "demo", "Hi", "--api-key", "secret")
    assert server.keys == ["Bearer secret"]


def test_the_conversation_is_remembered_until_it_is_cleared(
    server: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Chat(Client(server.url), "demo", None, {})
    chat.say("one")
    chat.say("two")
    chat.clear()
    chat.say("three")
    roles = [[message["role"] for message in chat["messages"]] for chat in server.chats]
    assert roles == [["user"], ["user", "assistant", "user"], ["user"]]
    assert server.chats[1]["messages"][1]["content"] == "Hello"
    assert capsys.readouterr().out == "Hello\n" * 3


def test_a_broken_answer_leaves_nothing_behind(server: StubServer) -> None:
    broken = [*server.chunks[:2], {"error": {"message": "the step failed"}}]
    whole, server.chunks = server.chunks, broken
    done = run(server, "demo", "Hi")
    assert done.exit_code == 1
    assert "the step failed" in done.stderr
    chat = Chat(Client(server.url), "demo", None, {})
    with pytest.raises(Exception, match="the step failed"):
        chat.say("one")
    server.chunks = whole
    chat.say("two")
    assert server.chats[-1]["messages"] == [{"role": "user", "content": "two"}]


def test_refusals_are_said_in_the_servers_words(server: StubServer) -> None:
    server.refusal = {"error": {"message": "temperature is too hot"}}
    done = run(server, "demo", "Hi")
    assert done.exit_code == 1
    assert "temperature is too hot" in done.stderr


def test_a_model_must_be_named_where_several_are_served(server: StubServer) -> None:
    server.models = [{"id": "a"}, {"id": "b"}]
    assert "which model?" in run(server, typed="Hi").stderr
    assert "use one of a, b" in run(server, "c", "Hi").stderr
    assert run(server, "b", "Hi").exit_code == 0


def test_a_url_that_is_none_is_refused() -> None:
    done = CliRunner().invoke(cli, ["run", "demo", "Hi", "--url", "localhost:8080"])
    assert "write it as http://" in done.stderr
