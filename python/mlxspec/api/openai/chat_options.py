"""From a chat's fields on tools and reasoning to the engine's `ChatOptions`."""

from typing import Any

import msgspec

from mlxspec.api.openai.params import ChatParams, FunctionTool, ToolChoice
from mlxspec.api.tool_choice import any_tool, named_tool
from mlxspec.engine.request import ChatOptions, Tool
from mlxspec.errors import BadRequestError


def chat_options(params: ChatParams) -> ChatOptions:
    """What the template is told, and how the reply is read; BadRequestError names the field."""
    continues = bool(params.continue_final_message)
    if continues and params.messages[-1].role != "assistant":
        raise BadRequestError(
            "continue_final_message needs a last message of role assistant: send one",
            param="continue_final_message",
        )
    tools = _tools(params)
    return ChatOptions(
        tools=tools,
        must_call=_must_call(params.tool_choice, tools),
        parallel_tool_calls=params.parallel_tool_calls is not False,
        template_kwargs=_template_kwargs(params),
        thinking_budget=params.thinking_token_budget,
        continue_final_message=continues,
    )


def _tools(params: ChatParams) -> list[Tool]:
    """The function tools that the model may call; it is told of no others."""
    if params.tool_choice == "none":
        return []
    tools = [
        msgspec.to_builtins(_checked(tool, at))
        for at, tool in enumerate(params.tools or [])
        if tool.type == "function"
    ]
    allowed = _allowed_names(params.tool_choice)
    return [tool for tool in tools if allowed is None or tool["function"]["name"] in allowed]


def _checked(tool: FunctionTool, at: int) -> FunctionTool:
    if tool.function is None:
        raise BadRequestError(
            f"tools[{at}] has no function: send its name and parameters", param=f"tools[{at}]"
        )
    return tool


def _allowed_names(choice: str | ToolChoice | None) -> set[str] | None:
    """The names that `allowed_tools` lists; None if any tool may be called."""
    if not isinstance(choice, ToolChoice) or choice.allowed_tools is None:
        return None
    return {tool.function.name for tool in choice.allowed_tools.tools if tool.function}


def _must_call(choice: str | ToolChoice | None, tools: list[Tool]) -> tuple[str, ...]:
    """The names of the tools of which one must be called; none where that is left to the model."""
    if not isinstance(choice, ToolChoice):
        return any_tool(tools) if choice == "required" else ()
    if choice.allowed_tools is not None:
        return any_tool(tools) if choice.allowed_tools.mode == "required" else ()
    return named_tool(tools, choice.function.name if choice.function else None)


def _template_kwargs(params: ChatParams) -> dict[str, Any]:
    """The template's variables: `chat_template_kwargs`, and the fields that stand for one."""
    kwargs: dict[str, Any] = {}
    if params.reasoning_effort is not None:
        kwargs["reasoning_effort"] = params.reasoning_effort
        if params.reasoning_effort == "none":
            kwargs["enable_thinking"] = False
    if params.enable_thinking is not None:
        kwargs["enable_thinking"] = params.enable_thinking
    return kwargs | (params.chat_template_kwargs or {})
