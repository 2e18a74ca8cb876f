"""A model's tokenizer: prompts in, token ids out, and ids back to text as they come."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer as FastTokenizer

from mlxspec.engine.detokenize import Detokenizer
from mlxspec.engine.request import Message
from mlxspec.errors import BadRequestError


class Tokenizer:
    """Thread-safe: rendering and encoding run off the event loop."""

    def __init__(self, wrapper: TokenizerWrapper) -> None:
        self._wrapper = wrapper
        self._fast: FastTokenizer = wrapper.backend_tokenizer
        self.chat_template = str(wrapper.chat_template or "")
        self.stop_tokens: list[int] = sorted(wrapper.eos_token_ids)
        self.vocab_size: int = self._fast.get_vocab_size(with_added_tokens=True)
        self.newline_tokens: list[int] = self.encode_piece("\n")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read the tokenizer of a model folder; end-of-text tokens are those of its configs."""
        return cls(load_tokenizer(folder, eos_token_ids=_eos_token_ids(folder)))

    def encode(self, prompt: list[Message] | str | list[int]) -> list[int]:
        """Token ids of a prompt. Raises BadRequestError when the template refuses the messages."""
        if isinstance(prompt, str):
            return list(self._wrapper.encode(prompt))
        if prompt and isinstance(prompt[0], int):
            return self._checked([int(token) for token in prompt])
        return self._encode_chat(prompt)  # type: ignore[arg-type]

    def encode_piece(self, text: str) -> list[int]:
        """Token ids of a text that stands inside another one."""
        return list(self._fast.encode(text, add_special_tokens=False).ids)

    def _encode_chat(self, messages: list[Message]) -> list[int]:
        if not self._wrapper.has_chat_template:
            raise BadRequestError(
                "the model has no chat template: use /v1/completions with a plain prompt",
                param="messages",
            )
        try:
            text = self._wrapper.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # noqa: BLE001 - a template may raise anything it likes
            raise BadRequestError(
                f"the model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return self.encode_piece(text)

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

    def detokenizer(self) -> Detokenizer:
        """A fresh one per request."""
        return Detokenizer(self._fast)


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
