"""From a request's sampling parameters to what the scheduler is told: token ids, checked."""

import secrets

from msgspec import Struct
from msgspec.structs import replace

from mlxspec.engine.request import GenerationRequest
from mlxspec.engine.tokenizer import Tokenizer
from mlxspec.errors import BadRequestError

SEED_STEP = 0x9E3779B97F4A7C15
"""Far from a difference that clients choose between their own seeds: 2**64 by the golden ratio."""


class TokenSampling(Struct, frozen=True, kw_only=True):
    """How to draw, without text. `Sampling` in Rust says what each field means."""

    temperature: float = 0.0
    top_p: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_spared: list[int] = []
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: list[tuple[int, float]] = []
    allowed: list[int] | None = None
    banned: list[list[int]] = []
    min_tokens: int = 0
    logprobs: int | None = None
    constraint: int = 0


def seeded_copies(request: GenerationRequest, copies: int) -> list[GenerationRequest]:
    """The request, and copies with seeds that follow from its own; without one, all are random."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * copies
    sampling = [replace(request.sampling, seed=seed + SEED_STEP * at) for at in range(copies)]
    return [replace(request, sampling=own) for own in sampling]


def stop_tokens(request: GenerationRequest, tokenizer: Tokenizer) -> list[int]:
    """Tokens that end the output: the request's, and the model's unless it ignores them."""
    tokenizer.check_known(request.stop_token_ids, "stop_token_ids")
    goes_on = request.ignore_eos and request.grammar is None
    own = [] if goes_on else tokenizer.stop_tokens
    filled_in = tokenizer.infill.stop_tokens if request.suffix else []
    return sorted({*own, *filled_in, *request.stop_token_ids})


def token_sampling(
    request: GenerationRequest, tokenizer: Tokenizer, stops: list[int]
) -> TokenSampling:
    """How to draw the request's tokens; a request without a seed gets a random one.

    Raises BadRequestError naming the field, for a token that the model does not have or parameters
    that leave none to draw.
    """
    asked = request.sampling
    tokenizer.check_known(asked.logit_bias, "logit_bias")
    tokenizer.check_known(asked.allowed_token_ids or (), "allowed_token_ids")
    sampling = TokenSampling(
        temperature=asked.temperature,
        top_p=asked.top_p,
        min_p=asked.min_p,
        top_k=asked.top_k,
        xtc_probability=asked.xtc_probability,
        xtc_threshold=asked.xtc_threshold,
        # As mlx-lm does: a text must be able to end its lines and itself.
        xtc_spared=sorted({*tokenizer.stop_tokens, *tokenizer.newline_tokens}),
        seed=secrets.randbits(64) if asked.seed is None else asked.seed % 2**64,
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        bias=list(asked.logit_bias.items()),
        allowed=None if asked.allowed_token_ids is None else sorted({*asked.allowed_token_ids}),
        banned=_banned(asked.bad_words, tokenizer),
        min_tokens=request.min_tokens,
        logprobs=asked.logprobs,
    )
    if request.grammar is not None:
        _check_grammar_is_alone(sampling, request.grammar.param)
    _check_some_token_is_left(sampling, stops)
    return sampling


def _banned(words: tuple[str, ...], tokenizer: Tokenizer) -> list[list[int]]:
    """The words' tokens, at the start of a text and behind a space."""
    spelled = (tokenizer.encode_piece(form) for word in words for form in (word, f" {word}"))
    return [list(tokens) for tokens in sorted({tuple(tokens) for tokens in spelled if tokens})]


def _check_grammar_is_alone(sampling: TokenSampling, param: str) -> None:
    """Where a grammar allows few tokens, nothing else may forbid them."""
    if sampling.allowed is not None or sampling.banned or sampling.min_tokens:
        raise BadRequestError(
            f"{param} decides which tokens may come: leave out allowed_token_ids, bad_words and "
            "min_tokens",
            param=param,
        )


def _check_some_token_is_left(sampling: TokenSampling, stops: list[int]) -> None:
    if sampling.allowed is None:
        return
    left = set(sampling.allowed) - {ban[0] for ban in sampling.banned if len(ban) == 1}
    if sampling.min_tokens > 0:
        left -= set(stops)
    if not left:
        raise BadRequestError(
            "bad_words and min_tokens leave none of allowed_token_ids: allow more tokens",
            param="allowed_token_ids",
        )
