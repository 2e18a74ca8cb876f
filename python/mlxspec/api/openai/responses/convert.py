"""From the items of /v1/responses to messages, and from its fields to a `GenerationRequest`."""

from collections.abc import Sequence
from typing import Any

from mlxspec.api.bounds import num_tokens
from mlxspec.api.json_grammar import ANY_OBJECT, json_grammar
from mlxspec.api.openai.responses.params import (
    Content,
    Item,
    PromptParams,
    ResponseParams,
    ResponseTool,
    TextFormat,
    ToolChoice,
)
from mlxspec.api.openai.service_tier import priority
from mlxspec.api.tool_choice import any_tool, named_tool
from mlxspec.engine.request import (
    ChatOptions,
    GenerationRequest,
    Grammar,
    Message,
    SamplingParams,
    Tool,
)
from mlxspec.errors import BadRequestError

TEXT_PARTS = frozenset(
    {"input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"}
)
NO_INPUT: Message = {"role": "user", "content": ""}


def generation_request(
    params: ResponseParams, model: str, messages: list[Message]
) -> GenerationRequest:
    """The generation a response asks for, over the whole conversation."""
    return GenerationRequest(
        model=model,
        prompt=with_instructions(params, messages),
        sampling=SamplingParams(
            temperature=1.0 if params.temperature is None else params.temperature,
            top_p=1.0 if params.top_p is None else params.top_p,
        ),
        max_tokens=num_tokens(params.max_output_tokens),
        priority=priority(None, params.service_tier),
        grammar=_grammar(params.text.format if params.text else None),
        chat=chat_options(params),
    )


def _grammar(asked: TextFormat | None) -> Grammar | None:
    """The form that the text must have, if one is asked for."""
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return json_grammar(ANY_OBJECT, "text.format")
    if asked.schema is None:
        raise BadRequestError("text.format has no schema: send one", param="text.format.schema")
    return json_grammar(asked.schema, "text.format")


def with_instructions(params: PromptParams, messages: list[Message]) -> list[Message]:
    """The conversation under this request's instructions; earlier ones are not carried over."""
    if not params.instructions:
        return messages or [NO_INPUT]
    return [{"role": "system", "content": params.instructions}, *(messages or [NO_INPUT])]


def chat_options(params: PromptParams) -> ChatOptions:
    """What the template is told of tools and thinking."""
    effort = params.reasoning.effort if params.reasoning else None
    kwargs: dict[str, Any] = {} if effort is None else {"reasoning_effort": effort}
    if effort == "none":
        kwargs["enable_thinking"] = False
    tools = _tools(params)
    return ChatOptions(
        tools=tools,
        must_call=_must_call(params.tool_choice, tools),
        parallel_tool_calls=params.parallel_tool_calls is not False,
        template_kwargs=kwargs,
    )


def _tools(params: PromptParams) -> list[Tool]:
    choice = params.tool_choice
    if choice == "none":
        return []
    allowed = None
    if isinstance(choice, ToolChoice) and choice.type == "allowed_tools":
        allowed = {tool.name for tool in choice.tools}
    return [
        _tool(tool)
        for tool in params.tools or []
        if tool.type == "function" and (allowed is None or tool.name in allowed)
    ]


def _must_call(choice: str | ToolChoice | None, tools: list[Tool]) -> tuple[str, ...]:
    """The names of the tools of which one must be called; none where that is left to the model."""
    if not isinstance(choice, ToolChoice):
        return any_tool(tools) if choice == "required" else ()
    if choice.type == "allowed_tools":
        return any_tool(tools) if choice.mode == "required" else ()
    return named_tool(tools, choice.name)


def _tool(tool: ResponseTool) -> Tool:
    """The tool as chat templates know it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def input_messages(given: str | Sequence[Item] | None) -> list[Message]:
    """The items as messages; BadRequestError names the one at fault. Unknown types are skipped."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Message] = []
    reasoning = ""
    for at, item in enumerate(given or ()):
        where = f"input[{at}]"
        match item.type:
            case "reasoning":
                reasoning = _text(item.content or item.summary, where)
            case "message":
                messages.append(_message(item, where))
            case "function_call":
                _add_call(messages, item, where)
            case "function_call_output":
                messages.append(_tool_answer(item, where))
            case "item_reference":
                raise BadRequestError(
                    "item_reference is not supported: send the item, or previous_response_id",
                    param=where,
                )
        if reasoning and item.type in {"message", "function_call"}:
            messages[-1].setdefault("reasoning_content", reasoning)
            reasoning = ""
    return messages


def _message(item: Item, where: str) -> Message:
    if item.role is None:
        raise BadRequestError(f"{where} has no role: send one", param=where)
    return {"role": item.role, "content": _text(item.content, where)}


def _add_call(messages: list[Message], item: Item, where: str) -> None:
    """A call belongs to the assistant's message before it, if that is what stands there."""
    if item.name is None or item.call_id is None:
        raise BadRequestError(f"{where} has no name or no call_id: send both", param=where)
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    function = {"name": item.name, "arguments": item.arguments or "{}"}
    call = {"id": item.call_id, "type": "function", "function": function}
    messages[-1].setdefault("tool_calls", []).append(call)


def _tool_answer(item: Item, where: str) -> Message:
    if item.call_id is None:
        raise BadRequestError(f"{where} has no call_id: send the call's", param=where)
    return {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output, where)}


def _text(content: Content | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type not in TEXT_PARTS:
            raise BadRequestError(
                f"content of type {part.type} is not supported: send text",
                param=f"{where}.content[{index}]",
            )
    return "".join(part.text or part.refusal or "" for part in content)
