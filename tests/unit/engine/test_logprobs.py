"""Logprobs travel with the text of their tokens; tokens have bytes; copies have seeds."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models

from mlxspec.engine.logprobs import LogprobQueue
from mlxspec.engine.request import GenerationRequest, SamplingParams
from mlxspec.engine.sampling import seeded_copies
from mlxspec.engine.vocabulary import Vocabulary


def queue() -> LogprobQueue:
    return LogprobQueue(lambda token: bytes([token]))


def tokens(taken: LogprobQueue) -> list[int]:
    return [entry.chosen.token for entry in taken.take()]


def test_logprobs_wait_until_their_text_is_sent() -> None:
    logprobs = queue()
    logprobs.extend([(-1.0, [(9, -2.0)]), (-1.5, []), (-2.0, [])])
    logprobs.push(1, num_chars=3, num_sent=3)
    logprobs.push(2, num_chars=2, num_sent=1)
    logprobs.push(3, num_chars=1, num_sent=0)
    first, second = logprobs.take()
    assert (first.chosen.logprob, first.chosen.text, first.offset) == (-1.0, b"\x01", 0)
    assert (first.top[0].token, first.top[0].logprob) == (9, -2.0)
    assert (second.chosen.token, second.offset) == (2, 3)
    assert tokens(logprobs) == []
    logprobs.flush()
    assert tokens(logprobs) == [3]


def test_logprobs_of_a_stop_string_are_never_sent() -> None:
    logprobs = queue()
    logprobs.extend([(-1.0, []), (-1.0, [])])
    logprobs.push(1, num_chars=5, num_sent=5)
    logprobs.push(2, num_chars=4, num_sent=0)
    assert tokens(logprobs) == [1]
    assert tokens(logprobs) == []


def test_a_token_inside_a_character_comes_when_nothing_is_held_back() -> None:
    logprobs = queue()
    logprobs.extend([(-1.0, []), (-1.0, [])])
    logprobs.push(1, num_chars=0, num_sent=0)
    assert tokens(logprobs) == [1]
    logprobs.push(2, num_chars=1, num_sent=1)
    assert tokens(logprobs) == [2]


def test_a_request_that_asks_for_none_has_none() -> None:
    logprobs = queue()
    logprobs.push(1, num_chars=1, num_sent=1)
    assert logprobs.take() == ()


def test_byte_level_pieces_are_their_bytes() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"Ġhi": 0, "Ã": 1, "Ċ": 2}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    vocabulary = Vocabulary(tokenizer)
    assert [vocabulary.bytes_of(token) for token in range(5)] == [
        b" hi",
        b"\xc3",
        b"\n",
        b"<|end|>",
        b"",
    ]


def test_sentencepiece_pieces_have_spaces_and_bytes() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"▁hi": 0, "<0xC3>": 1, "é": 2}, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    vocabulary = Vocabulary(tokenizer)
    assert [vocabulary.bytes_of(token) for token in range(3)] == [b" hi", b"\xc3", "é".encode()]


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_copies_have_distinct_seeds_and_the_first_its_own(seed: int) -> None:
    request = GenerationRequest(model="m", prompt="p", sampling=SamplingParams(seed=seed))
    seeds = [copy.sampling.seed for copy in seeded_copies(request, 5)]
    assert seeds[0] == seed
    assert len({value % 2**64 for value in seeds if value is not None}) == 5


def test_copies_without_a_seed_stay_without() -> None:
    request = GenerationRequest(model="m", prompt="p")
    assert [copy.sampling.seed for copy in seeded_copies(request, 2)] == [None, None]
