"""A model's own chat template: from messages to the text that the model continues.

Templates come with models from the internet, and clients choose what they loop over, so they run in
MiniJinja: no Python objects to reach, and fuel instead of trust. Clients never send a template.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from minijinja import Environment, TemplateError

from mlxspec.engine.request import Message
from mlxspec.errors import BadRequestError

FUEL = 50_000_000
"""Template instructions for one prompt, about a second; real conversations need below a million."""

TOOL_USE = "tool_use"
"""The name of the template for conversations with tools, where a model has several."""

_GENERATION = re.compile(r"({%[-+]?\s*)(generation|endgeneration)(\s*[-+]?%})")
"""A block tag that marks training targets and means nothing here."""


class ChatTemplate:
    """Renders prompts. Thread-safe.

    source: the template, or templates by name. variables: what all its renderings see, such as
    `bos_token`. Raises ValueError where a template cannot be parsed.
    """

    def __init__(self, source: str | Mapping[str, str], variables: Mapping[str, Any]) -> None:
        sources = {"default": source} if isinstance(source, str) else source
        self._names = frozenset(sources)
        self._variables = dict(variables)
        self.knows_developer = any("developer" in text for text in sources.values())
        """Whether a `developer` message is told from a `system` one."""
        self._environment = _environment()
        for name, text in sources.items():
            try:
                self._environment.add_template(name, _GENERATION.sub(_as_condition, text))
            except TemplateError as error:
                raise ValueError(f"chat template {name!r}: {error}") from None

    def render(
        self, messages: list[Message], tools: list[dict[str, Any]], options: Mapping[str, Any]
    ) -> str:
        """The prompt; `options` are further variables, which clients choose.

        Raises BadRequestError if the template refuses the messages.
        """
        name = TOOL_USE if tools and TOOL_USE in self._names else "default"
        context = {
            **options,
            **self._variables,
            "messages": messages,
            "tools": tools or None,
            "documents": None,
        }
        try:
            return self._environment.render_template(name, **context)
        except (TemplateError, _RefusedError) as error:
            reason = str(error).partition("\n")[0]
            raise BadRequestError(
                f"the model's chat template refuses these messages: {reason}", param="messages"
            ) from None


class _RefusedError(Exception):
    """The template called `raise_exception`."""


def _environment() -> Environment:
    """What templates find around them: the names that Hugging Face's renderer defines."""
    environment = Environment(
        fuel=FUEL, trim_blocks=True, lstrip_blocks=True, auto_escape_callback=lambda _name: False
    )
    environment.add_filter("tojson", _tojson)
    environment.add_test("iterable", _is_iterable)
    environment.add_global("raise_exception", _refuse)
    environment.add_global("strftime_now", _strftime_now)
    return environment


def _as_condition(tag: re.Match[str]) -> str:
    """The tag as one that is known and changes nothing, not even how whitespace is trimmed."""
    return f"{tag[1]}{'if true' if tag[2] == 'generation' else 'endif'}{tag[3]}"


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _is_iterable(value: Any) -> bool:
    """As in Jinja, where nothing (`none`) has no items."""
    return hasattr(value, "__iter__")


def _refuse(message: str) -> None:
    raise _RefusedError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
