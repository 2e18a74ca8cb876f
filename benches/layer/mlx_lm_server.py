"""`mlx_lm.server` itself around the script: `python -m layer.mlx_lm_server PORT`.

All of it runs, but for the object that generates: its handler asks that for a request's tokens, and
gets them in its own thread, without the queue that they otherwise come through.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from layer.script import WORD
from mlxspec.model.backend import prepare

prepare()

from mlx_lm import server  # noqa: E402
from mlx_lm.generate import TextStateMachine  # noqa: E402


class ScriptedGenerator:
    """Stands where `ResponseGenerator` stands; never refuses and never waits."""

    is_healthy = True

    def __init__(self, model_provider: Any, _prompt_cache: Any) -> None:
        self.cli_args = model_provider.cli_args

    def generate(
        self,
        _request: Any,
        args: Any,
        progress_callback: Callable[[int, int], None] | None = None,
    ) -> tuple[Any, Iterator[Any]]:
        """A context, and the tokens, as the handler expects them."""
        context = server.GenerationContext(
            has_tool_calling=False,
            has_thinking=False,
            tool_parser=lambda *_: {},
            text_sm=TextStateMachine(),
            initial_state="normal",
            prompt=[0],
        )
        return context, _responses(args.max_tokens)

    def stop_and_join(self) -> None:
        """Nothing runs."""


def _responses(num_tokens: int) -> Iterator[Any]:
    for at in range(num_tokens):
        end = "length" if at + 1 == num_tokens else None
        yield server.Response(WORD, 0, 0.0, end, ())


if __name__ == "__main__":
    server.ResponseGenerator = ScriptedGenerator
    # With Python's default of 5, clients that come together wait for seconds.
    server.ThreadingHTTPServer.request_queue_size = 128
    sys.argv[1:] = ["--port", sys.argv[1], "--log-level", "ERROR"]
    # It writes a line for each request.
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        server.main()
