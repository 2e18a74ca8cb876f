"""`mlxspec run`: chat in the terminal."""

import sys
from contextlib import closing
from typing import Any

import rich_click as click

from mlxspec.cli.client import Client
from mlxspec.cli.local_server import DEFAULT_URL, server_for
from mlxspec.errors import MlxspecError

HELP = "/clear forgets the conversation, /bye or Ctrl-D leaves, Ctrl-C ends an answer."


@click.command("run")
@click.argument("model", required=False)
@click.argument("prompt", required=False)
@click.option("--url", default=DEFAULT_URL, show_default=True, help="A server that may run there.")
@click.option("--api-key", "key", help="The server's key.")
@click.option("--system", help="What the model is told before the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 is greedy.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.")
def command(
    model: str | None,
    prompt: str | None,
    url: str,
    key: str | None,
    system: str | None,
    **options: Any,
) -> None:
    """Chat with MODEL: of the server at --url, or of one started for this chat.

    With PROMPT, or with one on standard input, answer that and end.
    """
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    with server_for(url, key, model) as client:
        fields = {name: value for name, value in options.items() if value is not None}
        chat = Chat(client, client.model(model).id, system, fields)
        if prompt is not None:
            chat.say(prompt)
        else:
            _converse(chat)


class Chat:
    """A conversation so far; answers go to standard output as they come."""

    def __init__(
        self, client: Client, model: str, system: str | None, fields: dict[str, Any]
    ) -> None:
        self._client = client
        self._body = {"model": model, **fields}
        self._opening = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._opening)

    def say(self, text: str) -> None:
        """Ask, print the answer, remember both; a broken answer leaves nothing behind."""
        asked = [*self._messages, {"role": "user", "content": text}]
        answer = ""
        with closing(self._client.chat({**self._body, "messages": asked})) as chunks:
            for chunk in chunks:
                for choice in chunk["choices"]:
                    piece = choice["delta"].get("content") or ""
                    answer += piece
                    click.echo(piece, nl=False)
        click.echo()
        self._messages = [*asked, {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        """Forget everything but the system message."""
        self._messages = list(self._opening)


def _converse(chat: Chat) -> None:
    """Read, ask, print, until the user leaves."""
    import readline  # noqa: F401 - `input` edits and remembers lines with it

    click.secho(HELP, dim=True)
    while True:
        try:
            text = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if text == "/bye":
            return
        if text == "/clear":
            chat.clear()
        elif text:
            _answer(chat, text)


def _answer(chat: Chat, text: str) -> None:
    """One answer; an error or Ctrl-C ends it and not the conversation."""
    try:
        chat.say(text)
    except KeyboardInterrupt:
        click.echo()
    except MlxspecError as error:
        click.secho(f"error: {error.message}", fg="red", err=True)
