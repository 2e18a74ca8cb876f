"""Conversations as OpenAI's clients send them, made what chat templates expect."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxspec.engine.request import ChatOptions, Message, Tool
from mlxspec.errors import BadRequestError

Render = Callable[[list[Message], list[Tool], Mapping[str, Any]], str]
"""From messages, tools and template variables to a prompt."""

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the variable that turns reasoning on and off."""

OPEN_END = "\ue000open end\ue000"
"""Stands in the last message where the prompt shall end; from Unicode's private area."""


class Conversation:
    """Renders messages with one model's template. Thread-safe."""

    def __init__(
        self,
        render: Render,
        *,
        thinks: bool,
        knows_developer: bool,
        knows_tools: bool,
        parse_arguments: bool,
    ) -> None:
        self._render = render
        self._thinks = thinks
        self._knows_developer = knows_developer
        self._knows_tools = knows_tools
        self._parse_arguments = parse_arguments

    @classmethod
    def of_mlx_lm(cls, wrapper: TokenizerWrapper) -> "Conversation":
        """For models whose template is code of mlx-lm: it knows few variables."""

        def render(messages: list[Message], tools: list[Tool], options: Mapping[str, Any]) -> str:
            try:
                text = wrapper.apply_chat_template(
                    messages,
                    tools=tools or None,
                    tokenize=False,
                    add_generation_prompt=options["add_generation_prompt"],
                    enable_thinking=options["enable_thinking"],
                )
            except Exception as error:  # noqa: BLE001 - a template may raise anything it likes
                raise BadRequestError(
                    f"the model's chat template refuses these messages: {error}", param="messages"
                ) from None
            return str(text)

        thinks = wrapper.has_thinking
        return cls(
            render,
            thinks=thinks,
            knows_developer=True,
            knows_tools=wrapper.has_tool_calling,
            parse_arguments=False,
        )

    def render(self, messages: list[Message], chat: ChatOptions) -> str:
        """The prompt; BadRequestError if the template refuses the messages."""
        told = [] if self._knows_tools or not chat.must_call else [_tools_told(chat)]
        known = _joined([*told, *(self._known(message) for message in messages)])
        if chat.continue_final_message:
            return self._render_open(known, chat)
        return self._render(known, chat.tools, self._variables(chat, add_generation_prompt=True))

    def _render_open(self, messages: list[Message], chat: ChatOptions) -> str:
        last = messages[-1]
        opened = [*messages[:-1], {**last, "content": last["content"] + OPEN_END}]
        variables = self._variables(chat, add_generation_prompt=False)
        text, end, _ = self._render(opened, chat.tools, variables).rpartition(OPEN_END)
        if not end:
            raise BadRequestError(
                "the model's chat template drops the last message: it cannot be continued",
                param="messages",
            )
        return text

    def _variables(self, chat: ChatOptions, *, add_generation_prompt: bool) -> dict[str, Any]:
        """The template's variables; a wish about thinking goes by all names that templates use."""
        given = chat.template_kwargs
        wishes = [given[name] for name in THINKING_SWITCHES if name in given]
        switches = dict.fromkeys(THINKING_SWITCHES, wishes[0]) if wishes else {}
        return {
            "enable_thinking": self._thinks,
            **given,
            **switches,
            "add_generation_prompt": add_generation_prompt,
        }

    def _known(self, message: Message) -> Message:
        """The message in words that templates know."""
        known = dict(message)
        if reasoning := message.get("reasoning_content"):
            known["thinking"] = reasoning  # what gpt-oss's template calls it
        if message["role"] == "developer" and not self._knows_developer:
            known["role"] = "system"
        if self._parse_arguments and (calls := message.get("tool_calls")):
            known["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
        return known


def _tools_told(chat: ChatOptions) -> Message:
    """What a model that must call is told of tools, if its template has no words for them."""
    functions = [tool["function"] for tool in chat.tools]
    told = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    return {"role": "system", "content": f"Answer with a call of one of these functions:\n{told}"}


def _joined(messages: list[Message]) -> list[Message]:
    """The conversation with one system message at its head: many templates refuse a second."""
    rest = list(itertools.dropwhile(lambda message: message["role"] == "system", messages))
    system = messages[: len(messages) - len(rest)]
    if len(system) < 2:
        return messages
    content = "\n\n".join(message["content"] for message in system)
    return [{**system[0], "content": content}, *rest]


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The call with its arguments as an object: templates loop over them or encode them again."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
