"""How likely the tokens of an answer were, as chats and as text completions word it."""

from collections.abc import Sequence
from typing import Self

from msgspec import Struct

from mlxspec.engine.request import Likelihood, TokenLogprobs


class LikelyToken(Struct, frozen=True):
    """One token of a chat and its logprob."""

    token: str
    logprob: float
    bytes: list[int]

    @classmethod
    def of(cls, likelihood: Likelihood) -> Self:
        """A token's text, with a replacement sign for broken characters; its bytes are exact."""
        text = likelihood.text
        return cls(text.decode(errors="replace"), likelihood.logprob, list(text))


class ChosenToken(LikelyToken, frozen=True):
    """A token of a chat's answer, and the likeliest at its place."""

    top_logprobs: list[LikelyToken] = []


class ChatLogprobs(Struct, frozen=True):
    """How likely the tokens of a chat's answer were."""

    content: list[ChosenToken]
    refusal: None = None

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprobs]) -> Self:
        """Word the engine's logprobs."""
        return cls([_chosen(token) for token in tokens])


def _chosen(token: TokenLogprobs) -> ChosenToken:
    own = LikelyToken.of(token.chosen)
    top = [LikelyToken.of(likelihood) for likelihood in token.top]
    return ChosenToken(own.token, own.logprob, own.bytes, top)


class TextLogprobs(Struct, frozen=True):
    """How likely the tokens of a text completion were, as columns."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, tokens: Sequence[TokenLogprobs], start: int) -> Self:
        """Word the engine's logprobs of a text that begins `start` characters into the choice."""
        return cls(
            tokens=[_text(token.chosen) for token in tokens],
            token_logprobs=[token.chosen.logprob for token in tokens],
            top_logprobs=[_by_text(token) for token in tokens],
            text_offset=[start + token.offset for token in tokens],
        )


def _by_text(token: TokenLogprobs) -> dict[str, float]:
    """The alternatives and, as OpenAI has it, the token itself."""
    likely = [*token.top, token.chosen] if token.top else []
    return {_text(one): one.logprob for one in likely}


def _text(likelihood: Likelihood) -> str:
    """Broken characters in OpenAI's notation, so that tokens stay distinct."""
    try:
        return likelihood.text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in likelihood.text)
