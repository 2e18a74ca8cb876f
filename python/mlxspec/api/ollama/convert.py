"""From Ollama's request fields to the engine's `GenerationRequest`s."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from mlxspec.api.bounds import num_tokens, seed, stop_strings
from mlxspec.api.json_grammar import ANY_OBJECT, json_grammar
from mlxspec.api.ollama.keep_alive import keep_alive_seconds
from mlxspec.api.ollama.params import (
    ChatMessage,
    ChatParams,
    CommonParams,
    GenerateParams,
    OfferedTool,
    Options,
)
from mlxspec.engine.request import (
    ChatOptions,
    GenerationRequest,
    Grammar,
    Message,
    SamplingParams,
    Tool,
)
from mlxspec.errors import BadRequestError

TEMPERATURE, TOP_K, TOP_P = 0.8, 40, 0.9
"""Ollama's documented defaults, which its clients count on."""


def generate_request(params: GenerateParams) -> GenerationRequest:
    """The generation of one prompt; BadRequestError names the field at fault."""
    prompt = params.prompt or ""
    if params.suffix:
        return replace(_request(params, prompt), suffix=params.suffix)
    if params.raw:
        return _request(params, prompt)
    system: list[Message] = []
    if params.system:
        system = [{"role": "system", "content": params.system}]
    return _request(params, [*system, {"role": "user", "content": prompt}])


def chat_request(params: ChatParams) -> GenerationRequest:
    """The generation of a conversation; BadRequestError names the field at fault."""
    messages = [_message(message, at) for at, message in enumerate(params.messages or [])]
    return _request(params, messages, [_tool(tool) for tool in params.tools or []])


def _request(
    params: CommonParams, prompt: list[Message] | str, tools: Sequence[Tool] = ()
) -> GenerationRequest:
    options = params.options or Options()
    limit = options.num_predict
    stops = [options.stop] if isinstance(options.stop, str) else options.stop or []
    return GenerationRequest(
        model=params.model,
        prompt=prompt,
        sampling=_sampling(options),
        max_tokens=None if limit is None or limit < 0 else num_tokens(limit),
        stop=stop_strings(stops, "options.stop"),
        grammar=_grammar(params.format),
        speculative=options.draft_num_predict != 0,
        max_draft=options.draft_num_predict or None,
        chat=ChatOptions(tools=list(tools), template_kwargs=_thinking(params.think)),
        keep_alive=keep_alive_seconds(params.keep_alive),
    )


def _grammar(form: str | dict[str, Any] | None) -> Grammar | None:
    """The form that the text must have, if one is asked for."""
    if not form:
        return None
    if isinstance(form, dict):
        return json_grammar(form, "format")
    if form != "json":
        raise BadRequestError(f"format {form!r:.40} is unknown: send json, or a JSON schema")
    return json_grammar(ANY_OBJECT, "format")


def _thinking(think: bool | str | None) -> dict[str, Any]:
    """A level of thinking is a wish to think, too."""
    if think is None:
        return {}
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    return {"enable_thinking": bool(think), **level}


def _tool(tool: OfferedTool) -> Tool:
    function = {
        "name": tool.function.name,
        "description": tool.function.description or "",
        "parameters": tool.function.parameters or {},
    }
    return {"type": "function", "function": function}


def _sampling(options: Options) -> SamplingParams:
    return SamplingParams(
        temperature=TEMPERATURE if options.temperature is None else options.temperature,
        top_k=TOP_K if options.top_k is None else max(0, options.top_k),
        top_p=TOP_P if options.top_p is None else options.top_p,
        min_p=options.min_p or 0.0,
        seed=seed(options.seed),
        repetition_penalty=options.repeat_penalty or 1.0,
        presence_penalty=options.presence_penalty or 0.0,
        frequency_penalty=options.frequency_penalty or 0.0,
    )


def _message(message: ChatMessage, at: int) -> Message:
    """The message as chat templates see it."""
    if message.images:
        raise BadRequestError("images are not supported: send text", param=f"messages[{at}].images")
    rendered: Message = {"role": message.role, "content": message.content or ""}
    if message.thinking:
        rendered["reasoning_content"] = message.thinking
    if message.tool_calls:
        rendered["tool_calls"] = [{"type": "function", **call} for call in message.tool_calls]
    if message.tool_name:
        rendered["name"] = message.tool_name
    if message.tool_call_id:
        rendered["tool_call_id"] = message.tool_call_id
    return rendered
