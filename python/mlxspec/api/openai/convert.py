"""From OpenAI's request fields to the engine's `GenerationRequest`s."""

from mlxspec.api.bounds import num_tokens, seed, stop_strings
from mlxspec.api.openai.chat_options import chat_options
from mlxspec.api.openai.params import (
    ChatMessage,
    ChatParams,
    CommonParams,
    CompletionParams,
    ContentPart,
)
from mlxspec.api.openai.prompts import split_prompts
from mlxspec.api.openai.service_tier import priority
from mlxspec.api.openai.structured import grammar_of
from mlxspec.engine.request import (
    PLAIN_CHAT,
    ChatOptions,
    GenerationRequest,
    Message,
    SamplingParams,
)
from mlxspec.errors import BadRequestError

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's documented default of /v1/completions; chats run to the end of the context."""

MAX_PROMPTS = 64
MAX_ID_DIGITS = 10


def chat_request(params: ChatParams) -> GenerationRequest:
    """The one generation a chat asks for; BadRequestError names the field at fault."""
    max_tokens = params.max_completion_tokens
    if max_tokens is None:
        max_tokens = params.max_tokens
    if params.top_logprobs and not params.logprobs:
        raise BadRequestError(
            "top_logprobs needs logprobs: send logprobs true, too", param="top_logprobs"
        )
    messages = [_message(message, at) for at, message in enumerate(params.messages)]
    prediction = params.prediction
    predicted = "" if prediction is None else _text(prediction.content, "prediction.content")
    logprobs = params.top_logprobs or 0 if params.logprobs else None
    return _request(
        params,
        messages,
        max_tokens,
        logprobs,
        chat=chat_options(params),
        prediction=predicted,
        prompt_logprobs=params.prompt_logprobs,
    )


def completion_requests(params: CompletionParams) -> list[GenerationRequest]:
    """One generation per prompt, in order; BadRequestError names the field at fault."""
    max_tokens = params.max_tokens
    if max_tokens is None:
        max_tokens = DEFAULT_COMPLETION_TOKENS
    logprobs = params.logprobs
    if logprobs is None and (params.best_of or 1) > (params.n or 1):
        logprobs = 0  # the likeliest are to be chosen
    suffix = params.suffix or ""
    return [
        _request(
            params,
            prompt,
            max_tokens,
            logprobs,
            suffix=suffix,
            prompt_logprobs=_prompt_logprobs(params, prompt),
        )
        for prompt in split_prompts(params.prompt, "prompt", MAX_PROMPTS)
    ]


def _prompt_logprobs(params: CompletionParams, prompt: str | list[int]) -> int | None:
    """Alternatives to tell of at each token of a prompt, None to tell nothing of it.

    Who has a prompt echoed sees its logprobs beside the answer's; ids are spelled one by one.
    """
    of_echo = None if isinstance(prompt, str) else 0
    asked = [params.prompt_logprobs, *((params.logprobs, of_echo) if params.echo else ())]
    return max((it for it in asked if it is not None), default=None)


def _request(
    params: CommonParams,
    prompt: list[Message] | str | list[int],
    max_tokens: int | None,
    logprobs: int | None,
    *,
    chat: ChatOptions = PLAIN_CHAT,
    prediction: str = "",
    suffix: str = "",
    prompt_logprobs: int | None = None,
) -> GenerationRequest:
    return GenerationRequest(
        model=params.model,
        prompt=prompt,
        suffix=suffix,
        sampling=_sampling(params, logprobs),
        max_tokens=num_tokens(max_tokens),
        prompt_logprobs=prompt_logprobs,
        min_tokens=_min_tokens(params, max_tokens),
        stop=stop_strings(_stops(params), "stop"),
        keeps_stop=bool(params.include_stop_str_in_output),
        stop_token_ids=tuple(params.stop_token_ids or ()),
        grammar=grammar_of(params),
        ignore_eos=bool(params.ignore_eos),
        speculative=_drafts(params) != 0,
        max_draft=_drafts(params) or None,
        priority=priority(params.priority, params.service_tier),
        chat=chat,
        prediction=prediction,
        cache_salt=params.cache_salt or "",
    )


def _sampling(params: CommonParams, logprobs: int | None) -> SamplingParams:
    return SamplingParams(
        temperature=1.0 if params.temperature is None else params.temperature,
        top_p=1.0 if params.top_p is None else params.top_p,
        top_k=max(0, params.top_k or 0),
        min_p=params.min_p or 0.0,
        xtc_probability=params.xtc_probability or 0.0,
        xtc_threshold=0.1 if params.xtc_threshold is None else params.xtc_threshold,
        seed=seed(params.seed),
        repetition_penalty=params.repetition_penalty or 1.0,
        presence_penalty=params.presence_penalty or 0.0,
        frequency_penalty=params.frequency_penalty or 0.0,
        logit_bias=_logit_bias(params.logit_bias or {}),
        allowed_token_ids=tuple(params.allowed_token_ids) if params.allowed_token_ids else None,
        bad_words=tuple(params.bad_words or ()),
        logprobs=logprobs,
    )


def _drafts(params: CommonParams) -> int | None:
    """Most tokens to draft at once: 0 turns drafting off, None leaves it to the server."""
    wish = params.speculative
    if wish is None:
        return None
    return wish.num_speculative_tokens if wish.enabled else 0


def _logit_bias(bias: dict[str, float | None]) -> dict[int, float]:
    """By token id; entries that change nothing are left out, whatever their key."""
    asked = {key: value for key, value in bias.items() if value}
    for key in asked:
        if not (key.isascii() and key.isdigit() and len(key) <= MAX_ID_DIGITS):
            raise BadRequestError(
                f"logit_bias key {key[:32]!r} is not a token id: send ids as decimal strings",
                param="logit_bias",
            )
    return {int(key): value for key, value in asked.items()}


def _min_tokens(params: CommonParams, max_tokens: int | None) -> int:
    least = params.min_tokens or 0
    if max_tokens is not None and least > max_tokens:
        raise BadRequestError(
            f"min_tokens={least} is more than max_tokens={max_tokens}: lower it",
            param="min_tokens",
        )
    return num_tokens(least) or 0


def _stops(params: CommonParams) -> list[str]:
    return [params.stop] if isinstance(params.stop, str) else params.stop or []


def _message(message: ChatMessage, at: int) -> Message:
    """The message as chat templates see it: text content, and only the keys that were sent."""
    rendered: Message = {
        "role": message.role,
        "content": _text(message.content, f"messages[{at}].content"),
    }
    for key in ("name", "tool_calls", "tool_call_id"):
        value = getattr(message, key)
        if value is not None:
            rendered[key] = value
    if reasoning := message.reasoning_content or message.reasoning:
        rendered["reasoning_content"] = reasoning
    return rendered


def _text(content: str | list[ContentPart] | None, param: str) -> str:
    """The text of a string or of text parts; BadRequestError names the part that is neither."""
    if content is None or isinstance(content, str):
        return content or ""
    for index, part in enumerate(content):
        if part.type != "text" or part.text is None:
            raise BadRequestError(
                f"message part of type {part.type} is not supported: send text parts with a text",
                param=f"{param}[{index}]",
            )
    return "".join(part.text or "" for part in content)
