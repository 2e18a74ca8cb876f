"""What the API asks of the engine, and what comes back: plain values, no HTTP, no tensors."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct

Vector = np.ndarray[Any, np.dtype[np.float32]]

Message = dict[str, Any]
"""One chat message as the chat template sees it: at least `role` and `content`."""

Tool = dict[str, Any]
"""One function tool, as templates see it: `type`, and `function` with name and JSON schema."""

FinishReason = Literal["stop", "length", "tool_calls", "abort", "error"]


class SamplingParams(Struct, frozen=True, kw_only=True):
    """How the next token is drawn. Temperature 0 is greedy; the seed fixes all noise.

    In this order: `allowed_token_ids` (None: all), `logit_bias` and `bad_words`, penalties
    (repetition of prompt and output, presence and frequency of the output), temperature, top-k,
    top-p, min-p, XTC.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    logprobs: int | None = None
    """Tell how likely each token was, and this many alternatives; None tells nothing."""


class ChatOptions(Struct, frozen=True, kw_only=True):
    """How messages become a prompt and how the reply to them is read.

    `must_call` names the tools of which the reply must call one; empty: it need not call any. A
    call of a tool that says `strict` has just the arguments that the tool declares.
    `template_kwargs` are variables of the chat template. `continue_final_message` leaves the last
    message open, for the model to go on with. `thinking_budget`: most tokens of reasoning, behind
    which it is ended; None sets no bound.
    """

    tools: list[Tool] = []
    must_call: tuple[str, ...] = ()
    parallel_tool_calls: bool = True
    template_kwargs: dict[str, Any] = {}
    thinking_budget: int | None = None
    continue_final_message: bool = False


PLAIN_CHAT = ChatOptions()


class Grammar(Struct, frozen=True, kw_only=True):
    """What the output must be: a JSON text of a schema, or all that a regex or a grammar matches.

    source: the schema as JSON, a regular expression (Rust's syntax), or a grammar in llguidance's
    dialect of Lark. param: the request field it came from, which errors name.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    param: str


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """One prompt and how to continue it.

    `prompt` is chat messages, raw text, or token ids; `chat` is for messages only. `max_tokens`
    None means: to the end of the context; 0, with `prompt_logprobs`, only reads the prompt. `stop`
    strings and tokens end the text before themselves, but not before `min_tokens`; `ignore_eos`
    keeps the model's own stop tokens from ending it. `grammar` is what the text must follow; it
    ends with the text. `speculative` False decodes plainly. `prediction` is the answer as the
    client expects it: it is drafted from, and changes no token. Requests share cached KV, and are
    drafted from each other's answers, within one `cache_salt`. `timeout_seconds`: how long the
    whole may take, within the server's own limit.
    """

    model: str
    prompt: list[Message] | str | list[int]
    suffix: str = ""
    """What follows the text that is to be generated; not for messages."""
    sampling: SamplingParams = SamplingParams()
    max_tokens: int | None = None
    prompt_logprobs: int | None = None
    """Tell how likely each token of the prompt was, and this many alternatives; or nothing."""
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    keeps_stop: bool = False
    """The stop string that ends the text stays in it."""
    stop_token_ids: tuple[int, ...] = ()
    grammar: Grammar | None = None
    ignore_eos: bool = False
    speculative: bool = True
    chat: ChatOptions = PLAIN_CHAT
    prediction: str = ""
    cache_salt: str = ""
    timeout_seconds: float | None = None
    priority: int = 0
    """Levels behind others, or ahead of them if negative; each is worth 10 s of waiting."""
    max_draft: int | None = None
    """Most tokens drafted at once, within the server's own limit; at least 1."""
    keep_alive: float | None = None
    """Seconds that the model stays in memory when idle, from now on; negative: for ever."""


class ReadRequest(Struct, frozen=True, kw_only=True):
    """Texts that are read whole, and not continued.

    `truncate` cuts those that are too long, instead of refusing them. `param`: the request field
    they come from, which errors name. The rest as for `GenerationRequest`.
    """

    model: str
    truncate: bool = False
    param: str = "input"
    priority: int = 0
    timeout_seconds: float | None = None
    keep_alive: float | None = None


class EmbeddingRequest(ReadRequest, frozen=True, kw_only=True):
    """Texts, or their token ids, each of which becomes one vector (docs/embeddings.md).

    `pooling` None: as the model was trained, as far as it says. `dimensions`: the first ones of
    each vector alone. `normalise`: to length 1.
    """

    inputs: Sequence[str | list[int]]
    pooling: Literal["mean", "cls", "last"] | None = None
    dimensions: int | None = None
    normalise: bool = True


class Embedded(Struct, frozen=True):
    """One float32 vector (dimensions,) for each text, and the tokens of all together."""

    vectors: list[Vector]
    num_tokens: int


class RerankRequest(ReadRequest, frozen=True, kw_only=True):
    """Documents to be scored by what they have to do with a query."""

    query: str
    documents: list[str]


ScoredBy = Literal["cross-encoder", "cosine"]


class Reranked(Struct, frozen=True):
    """A score for each document, and the tokens read. A cross-encoder's lie between 0 and 1,
    cosines of embeddings between -1 and 1."""

    scores: list[float]
    num_tokens: int
    scored_by: ScoredBy


class ToolCall(Struct, frozen=True, kw_only=True):
    """A model's wish to have a tool called; `arguments` is JSON text.

    `index` is its place among the calls of one reply.
    """

    index: int
    id: str
    name: str
    arguments: str


class Likelihood(Struct, frozen=True):
    """A token and how likely the target found it: the natural logarithm."""

    token: int
    text: bytes
    """Its own bytes, which need not be whole characters."""
    logprob: float


class TokenLogprobs(Struct, frozen=True):
    """A generated token and the likeliest tokens at its place, by the model's own logits."""

    chosen: Likelihood
    top: tuple[Likelihood, ...]
    offset: int
    """Characters of the request's text before this token."""


class PromptToken(Struct, frozen=True):
    """A token of a prompt, and how likely the target found it there: not told of the first one.

    special: it stands for no text. rank: 1 is the likeliest token at its place.
    """

    token: int
    text: bytes
    special: bool
    logprob: float | None
    rank: int | None
    top: tuple[Likelihood, ...]


class Delta(Struct, frozen=True, kw_only=True):
    """What is new of one request. The last delta, and only it, has a finish reason.

    It has one of: text of the answer, text of the reasoning, a whole tool call. `logprobs`, if the
    request asks for them, are of the tokens whose text is certain by then.
    """

    text: str = ""
    reasoning: str = ""
    call: ToolCall | None = None
    num_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    """The stop string that ended the text, if one did."""


class Usage(Struct, frozen=True, kw_only=True):
    """Token counts of one request. What was cached of its prompt, and drafted of its prediction, is
    known at its end.
    """

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0
    """How many of the completion's tokens are reasoning."""
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    cached_tokens: int = 0


class SpeculationMetrics(Struct, frozen=True, kw_only=True):
    """Measured speculation of one request; `acceptance_histogram[j]` counts steps keeping j drafts.

    sum(histogram) == num_spec_steps; sum(j * histogram[j]) == num_accepted_draft_tokens;
    len(histogram) == num_spec_tokens + 1, `num_spec_tokens` being the longest draft verified.
    """

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[int]
    num_spec_steps: int
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_tokens: int


class RequestMetrics(Struct, frozen=True, kw_only=True):
    """Measured times of one request (milliseconds) and its speculation; None if no step drafted."""

    time_to_first_token_ms: float | None
    queue_time_ms: float | None
    mean_itl_ms: float | None
    tokens_per_second: float | None
    speculative_decoding: SpeculationMetrics | None


Capability = Literal["completion", "tools", "thinking", "insert", "embedding", "rerank"]
ModelState = Literal["absent", "reserving", "loading", "resident", "draining", "evicting", "failed"]


class MemoryUse(Struct, frozen=True, kw_only=True):
    """Where memory has gone, in bytes.

    budget: for all models. held: by models, KV memory and reservations included. active, cache and
    peak: MLX's own figures. process: what the kernel counts; None where it does not tell. free:
    what could be taken now.
    """

    budget: int
    held: int
    active: int
    cache: int
    peak: int
    process: int | None
    free: int


class DrafterCard(Struct, frozen=True, kw_only=True):
    """A draft model: bytes that it holds, or would; the models that it drafts for, and how many of
    them are in memory."""

    id: str
    state: ModelState
    memory_bytes: int
    num_served: int
    models: tuple[str, ...]


class GroupCard(Struct, frozen=True, kw_only=True):
    """A group of models. `default` answers where nothing balances; `types` are its members'."""

    id: str
    members: tuple[str, ...]
    default: str
    balance: str
    description: str
    tags: tuple[str, ...]
    types: tuple[str, ...]
    max_running: int | None
    max_waiting: int | None
    requests: int
    """Of all its members, that have not ended."""


class ModelCard(Struct, frozen=True, kw_only=True):
    """A served model as clients see it.

    num_bytes: of its weights on disk. memory_bytes: memory that it holds, or would.
    expires_in: seconds until it leaves by itself. progress: the part of its weights that is in
    memory, while it is loaded. awaited: it is loaded at start, and not there yet. error: why it
    could not be loaded the last time.
    """

    id: str
    created: int
    state: ModelState
    context_length: int | None
    num_bytes: int = 0
    model_type: str = "unknown"
    dtype: str = "unknown"
    chat_template: str = ""
    capabilities: tuple[Capability, ...] = ("completion",)
    error: str | None = None
    awaited: bool = False
    memory_bytes: int = 0
    num_running: int = 0
    num_waiting: int = 0
    expires_in: float | None = None
    progress: float | None = None
    pinned: bool = False
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    description: str = ""
    folder: str = ""
