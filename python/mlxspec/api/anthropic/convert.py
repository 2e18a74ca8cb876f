"""From Anthropic's messages to the engine's: blocks become what chat templates know."""

from collections.abc import Iterator

from mlxspec.api.anthropic.params import (
    Block,
    CountParams,
    InputMessage,
    MessagesParams,
    ToolChoice,
)
from mlxspec.api.bounds import num_tokens, stop_strings
from mlxspec.api.json_grammar import json_grammar
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

BILLING = "x-anthropic-billing-header"
"""Claude Code opens the system prompt with a line that differs in every request: it says nothing
to the model and would keep two prompts from sharing their beginning."""

DROPPED = frozenset({"redacted_thinking"})
"""Blocks that only their author's servers can read."""


def messages_request(params: MessagesParams) -> GenerationRequest:
    """The generation a body asks for; BadRequestError names the field at fault."""
    return GenerationRequest(
        model=params.model,
        prompt=prompt_messages(params),
        chat=chat_options(params),
        sampling=SamplingParams(
            temperature=1.0 if params.temperature is None else params.temperature,
            top_p=1.0 if params.top_p is None else params.top_p,
            top_k=max(0, params.top_k or 0),
        ),
        max_tokens=num_tokens(params.max_tokens),
        stop=stop_strings(params.stop_sequences or (), "stop_sequences"),
        grammar=_grammar(params),
    )


def _grammar(params: MessagesParams) -> Grammar | None:
    """The form that the text must have, by the field's new name or its old one."""
    if params.output_config and params.output_config.format:
        return json_grammar(params.output_config.format.schema, "output_config.format")
    if params.output_format:
        return json_grammar(params.output_format.schema, "output_format")
    return None


def prompt_messages(params: CountParams) -> list[Message]:
    """The conversation as chat templates see it, the system prompt first."""
    messages = _system(params.system)
    for at, message in enumerate(params.messages):
        messages.extend(_turn(message, f"messages[{at}].content"))
    return messages


def chat_options(params: CountParams) -> ChatOptions:
    """What templates are told besides; words put into the model's mouth are gone on with."""
    choice = params.tool_choice
    thinks = params.thinking.type if params.thinking else None
    switch = {"enabled": True, "disabled": False}.get(thinks or "")
    tools = _tools(params)
    return ChatOptions(
        tools=tools,
        must_call=_must_call(choice, tools),
        parallel_tool_calls=not (choice and choice.disable_parallel_tool_use),
        template_kwargs={} if switch is None else {"enable_thinking": switch},
        thinking_budget=params.thinking.budget_tokens if params.thinking else None,
        continue_final_message=params.messages[-1].role == "assistant",
    )


def _tools(params: CountParams) -> list[Tool]:
    """The client's tools, as chat templates see them; the model is told of no others."""
    if params.tool_choice and params.tool_choice.type == "none":
        return []
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.input_schema,
                **({"strict": True} if tool.strict else {}),
            },
        }
        for tool in params.tools or []
        if tool.name is not None and tool.input_schema is not None
    ]


def _must_call(choice: ToolChoice | None, tools: list[Tool]) -> tuple[str, ...]:
    """The names of the tools of which one must be called; none where that is left to the model."""
    match choice.type if choice else "auto":
        case "any":
            return any_tool(tools)
        case "tool":
            return named_tool(tools, choice.name if choice else None)
        case _:
            return ()


def _system(system: str | list[Block] | None) -> list[Message]:
    texts = [system] if isinstance(system, str) else [_text(block) for block in system or ()]
    texts = [text for text in texts if text and not text.startswith(BILLING)]
    return [{"role": "system", "content": "\n\n".join(texts)}] if texts else []


def _turn(message: InputMessage, param: str) -> Iterator[Message]:
    """One turn: answers of tools are messages of their own, before the text beside them."""
    if isinstance(message.content, str):
        yield {"role": message.role, "content": message.content}
        return
    said: Message = {"role": message.role, "content": ""}
    answers = 0
    for at, block in enumerate(message.content):
        match block.type:
            case "tool_result":
                answers += 1
                yield _tool_result(block, f"{param}[{at}]")
            case "tool_use":
                said.setdefault("tool_calls", []).append(_tool_call(block))
            case "thinking":
                said["reasoning_content"] = block.thinking or ""
            case kind if kind not in DROPPED:
                said["content"] += _text(block, f"{param}[{at}]")
    if said["content"] or "tool_calls" in said or not answers:
        yield said


def _tool_call(block: Block) -> Message:
    function = {"name": block.name or "", "arguments": block.input or {}}
    return {"id": block.id or "", "type": "function", "function": function}


def _tool_result(block: Block, param: str) -> Message:
    content = block.content or ""
    if not isinstance(content, str):
        content = "".join(_text(part, f"{param}.content[{at}]") for at, part in enumerate(content))
    return {"role": "tool", "tool_call_id": block.tool_use_id or "", "content": content}


def _text(block: Block, param: str = "system") -> str:
    if block.type != "text" or block.text is None:
        raise BadRequestError(
            f"a content block of type {block.type} is not supported: send text blocks", param=param
        )
    return block.text
