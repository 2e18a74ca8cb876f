"""A model's tokenizer: prompts in, token ids out, and what reads ids back as they come."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from msgspec.structs import replace
from tokenizers import Tokenizer as FastTokenizer

from mlxspec.engine.chat_template import ChatTemplate
from mlxspec.engine.conversation import Conversation
from mlxspec.engine.detokenize import Detokenizer
from mlxspec.engine.grammar import GrammarCompiler
from mlxspec.engine.infill import Infill
from mlxspec.engine.logprobs import LogprobQueue
from mlxspec.engine.output import Output
from mlxspec.engine.prompt_report import PromptReport
from mlxspec.engine.reply import ReplyParser
from mlxspec.engine.reply_format import ReplyFormat
from mlxspec.engine.request import (
    PLAIN_CHAT,
    Capability,
    ChatOptions,
    EmbeddingRequest,
    GenerationRequest,
    Message,
    ReadRequest,
    RerankRequest,
)
from mlxspec.engine.vocabulary import Vocabulary
from mlxspec.errors import BadRequestError, ContextLengthError
from mlxspec.speculative.thinking import ThinkingBudget

log = structlog.get_logger()

PROMPT_END_TOKENS = 16


class Tokenizer:
    """Thread-safe: rendering and encoding run off the event loop."""

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        self._fast: FastTokenizer = wrapper.backend_tokenizer
        self.chat_template = str(wrapper.chat_template or "")
        self._conversation = _conversation(wrapper)
        self._format = ReplyFormat(wrapper)
        self._special = frozenset(
            token for token, added in self._fast.get_added_tokens_decoder().items() if added.special
        )
        self._hidden = self._special - self._marker_tokens()
        self.stop_tokens: list[int] = sorted(wrapper.eos_token_ids)
        self.vocab_size: int = self._fast.get_vocab_size(with_added_tokens=True)
        self._vocabulary = Vocabulary(self._fast)
        self._reply_grammars = self._format.grammars(
            {added.content: at for at, added in self._fast.get_added_tokens_decoder().items()}
        )
        self.grammars = GrammarCompiler(self._fast, self.vocab_size, self.stop_tokens)
        self.newline_tokens: list[int] = self.encode_piece("\n")
        self.infill = Infill(self._fast.token_to_id, self.encode_piece, list(wrapper.encode("")))

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read the tokenizer of a model folder; end-of-text tokens are those of its configs."""
        return cls(load_tokenizer(folder, eos_token_ids=_eos_token_ids(folder)))

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """What the model's template and vocabulary are made for."""
        tools: tuple[Capability, ...] = ("tools",) if self._wrapper.has_tool_calling else ()
        thinking: tuple[Capability, ...] = ("thinking",) if self._wrapper.has_thinking else ()
        insert: tuple[Capability, ...] = ("insert",) if self.infill else ()
        return ("completion", *tools, *thinking, *insert)

    def encode(
        self,
        prompt: list[Message] | str | list[int],
        chat: ChatOptions = PLAIN_CHAT,
        *,
        special: bool = True,
    ) -> list[int]:
        """Token ids of a prompt. Raises BadRequestError when the template refuses the messages.

        `special` puts in front of a text what the model expects there.
        """
        if isinstance(prompt, str):
            return list(self._wrapper.encode(prompt, add_special_tokens=special))
        if prompt and isinstance(prompt[0], int):
            return self._checked([int(token) for token in prompt])
        text = self.render(prompt, chat)  # type: ignore[arg-type]
        return self.encode_piece(text)

    def encode_request(self, request: GenerationRequest) -> list[int]:
        """Token ids of a request's prompt; raises what `encode` raises."""
        prompt = request.prompt
        if not request.suffix:
            return self.encode(prompt, request.chat)
        before = self.encode_piece(prompt) if isinstance(prompt, str) else self.encode(prompt)
        return self.infill.prompt(before, request.suffix)

    def encode_texts(self, request: EmbeddingRequest, longest: int | None) -> list[list[int]]:
        """Token ids of each text, with what the model expects around it; ids as they are.

        Raises ContextLengthError for a text of more than `longest` tokens, unless it may be cut.
        """
        return [
            self._fitted(self.encode(text), at, request, longest)
            for at, text in enumerate(request.inputs)
        ]

    def encode_pairs(self, request: RerankRequest, longest: int | None) -> list[list[int]]:
        """Token ids of the query with each document; raises as `encode_texts` does."""
        return [
            self._fitted(list(self._fast.encode(request.query, document).ids), at, request, longest)
            for at, document in enumerate(request.documents)
        ]

    def _fitted(
        self, tokens: list[int], at: int, request: ReadRequest, longest: int | None
    ) -> list[int]:
        if longest is None or len(tokens) <= longest:
            return tokens
        if not request.truncate:
            raise ContextLengthError(
                f"{request.param} {at} has {len(tokens)} tokens, the model reads {longest}: "
                f"shorten it by {len(tokens) - longest}",
                param=request.param,
            )
        end = tokens[-1:] if tokens[-1] in self._special else []
        return tokens[: longest - len(end)] + end

    def encode_piece(self, text: str) -> list[int]:
        """Token ids of a text that stands inside another one."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """The text of ids, special tokens spelled out; BadRequestError for ids out of range."""
        return str(self._fast.decode(self._checked(tokens), skip_special_tokens=False))

    def render(self, messages: list[Message], chat: ChatOptions) -> str:
        """The text of a conversation's prompt; raises BadRequestError as `encode` does."""
        if self._conversation is None:
            raise BadRequestError(
                "the model has no chat template: use /v1/completions with a plain prompt",
                param="messages",
            )
        return self._conversation.render(messages, chat)

    def output(
        self, request: GenerationRequest, prompt: list[int], stop_tokens: frozenset[int]
    ) -> Output:
        """A fresh reader of one request's tokens; `prompt` is what `encode` made of it."""
        is_chat = _is_chat(request)
        return Output(
            detokenizer=Detokenizer(self._fast, self._hidden if is_chat else self._special),
            stop=request.stop,
            stop_tokens=stop_tokens,
            min_tokens=request.min_tokens,
            reply=self._reply(request, prompt) if is_chat else ReplyParser.plain(),
            logprobs=LogprobQueue(self._vocabulary.bytes_of),
            keeps_stop=request.keeps_stop,
        )

    def prompt_report(self, request: GenerationRequest, prompt: list[int]) -> PromptReport | None:
        """What is told of a request's prompt, if it asks; `prompt` is what `encode` made of it."""
        if request.prompt_logprobs is None:
            return None
        return PromptReport(
            prompt,
            min(request.prompt_logprobs, self.vocab_size),
            bytes_of=self._vocabulary.bytes_of,
            special=self._special,
        )

    def constrained(self, request: GenerationRequest, prompt: list[int]) -> GenerationRequest:
        """The request with the grammar that its reply must follow, tool calls included.

        `prompt` is what `encode` made of it. Raises BadRequestError where there is no such grammar.
        """
        if not _is_chat(request):
            return request
        thinking = self._format.thinks_from(self._end_of(prompt))
        return replace(request, grammar=self._reply_grammars.of(request, thinking=thinking))

    def thinking_budget(
        self, request: GenerationRequest, prompt: list[int]
    ) -> ThinkingBudget | None:
        """The bound on a request's reasoning, if it sets one and the model thinks.

        Raises BadRequestError where other fields forbid tokens that it needs.
        """
        most, markers = request.chat.thinking_budget, self._format.thinking_tokens
        if most is None or markers is None or not _is_chat(request):
            return None
        if request.sampling.allowed_token_ids is not None or request.sampling.bad_words:
            raise BadRequestError(
                "thinking_token_budget ends the reasoning with the model's own marker: leave out "
                "allowed_token_ids and bad_words",
                param="thinking_token_budget",
            )
        thinks = self._format.thinks_from(self._end_of(prompt))
        return ThinkingBudget(most, *markers, thinks=thinks)

    def _reply(self, request: GenerationRequest, prompt: list[int]) -> ReplyParser:
        return self._format.parser(request.chat, self._end_of(prompt))

    def _end_of(self, prompt: list[int]) -> str:
        """Enough of a prompt's end to hold a marker that opens the reply."""
        return str(self._fast.decode(prompt[-PROMPT_END_TOKENS:], skip_special_tokens=False))

    def _marker_tokens(self) -> frozenset[int]:
        """Special tokens that are a marker or a part of one: the reply's parser must see them."""
        added = self._fast.get_added_tokens_decoder()
        markers = self._format.markers
        return frozenset(
            token for token in self._special if any(added[token].content in it for it in markers)
        )

    def encode_answer(self, text: str) -> list[int]:
        """Token ids of a text as the model would say it: no special tokens around it."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def _checked(self, tokens: list[int]) -> list[int]:
        self.check_known(tokens, "prompt")
        return tokens

    def check_known(self, tokens: Iterable[int], param: str) -> None:
        """Raise BadRequestError, naming the request field, for a token the model does not have."""
        for token in tokens:
            if not 0 <= token < self.vocab_size:
                raise BadRequestError(
                    f"token {token} is not in the vocabulary: send ids from 0 to "
                    f"{self.vocab_size - 1}",
                    param=param,
                )


def _is_chat(request: GenerationRequest) -> bool:
    return bool(request.prompt) and isinstance(request.prompt[0], dict)


def _conversation(wrapper: TokenizerWrapper) -> Conversation | None:
    """How the model's chats are rendered; None if it has no template, or one that is broken."""
    if not wrapper.has_chat_template:
        return None
    source: str | dict[str, str] | None = wrapper.chat_template
    if source is None or "chat_template_type" in wrapper.init_kwargs:
        return Conversation.of_mlx_lm(wrapper)
    try:
        template = ChatTemplate(source, wrapper.special_tokens_map)
    except ValueError as error:
        log.warning("the chat template cannot be used", error=str(error).partition("\n")[0])
        return None
    return Conversation(
        template.render,
        thinks=wrapper.has_thinking,
        knows_developer=template.knows_developer,
        knows_tools=wrapper.has_tool_calling,
        parse_arguments=True,
    )


def _eos_token_ids(folder: Path) -> list[int] | None:
    """End tokens by generation_config.json, else config.json; None if neither names one."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.exists():
            continue
        value: Any = json.loads(path.read_bytes()).get("eos_token_id")
        if value is not None:
            return value if isinstance(value, list) else [value]
    return None
