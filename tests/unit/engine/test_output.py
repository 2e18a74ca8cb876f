"""Stop strings end the answer; in reasoning they mean nothing."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mlxspec.engine.detokenize import Detokenizer
from mlxspec.engine.logprobs import LogprobQueue
from mlxspec.engine.output import Output
from mlxspec.engine.reply_format import ReplyFormat
from mlxspec.engine.request import PLAIN_CHAT

THINKER = SimpleNamespace(
    has_thinking=True,
    think_start="<think>",
    think_end="</think>",
    has_tool_calling=False,
    tool_call_start=None,
    tool_call_end=None,
    tool_parser=None,
    structural_markers=(),
    response_transitions={},
    response_initial_state=None,
)


def letters() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def read(
    text: str, *stop: str, prompt_end: str = "", min_tokens: int = 0, keeps_stop: bool = False
) -> tuple[str, str]:
    """The reasoning and the answer of a reply that is spelled letter by letter."""
    tokenizer = letters()
    output = Output(
        detokenizer=Detokenizer(tokenizer, frozenset()),
        stop=stop,
        stop_tokens=frozenset(),
        min_tokens=min_tokens,
        reply=ReplyFormat(THINKER).parser(PLAIN_CHAT, prompt_end),  # type: ignore[arg-type]
        logprobs=LogprobQueue(lambda _: b""),
        keeps_stop=keeps_stop,
    )
    for token in tokenizer.encode(text).ids:
        if output.push(token):
            break
    output.finish()
    parts = output.take()
    return "".join(part.reasoning for part in parts), "".join(part.text for part in parts)


@pytest.mark.parametrize(("prompt_end", "opening"), [("<think>", ""), ("", "<think>")])
def test_a_stop_string_in_reasoning_ends_nothing(prompt_end: str, opening: str) -> None:
    text = f"{opening}say END or not</think>The END is near"
    assert read(text, "END", prompt_end=prompt_end) == ("say END or not", "The ")


def test_what_stop_strings_held_back_is_not_lost_to_reasoning() -> None:
    assert read("A<think>E</think>NE, END!", "END") == ("E", "ANE, ")


def test_a_stop_string_stays_in_the_answer_if_that_is_asked() -> None:
    assert read("The END is near", "END", keeps_stop=True) == ("", "The END")
    assert read("The EN", "END", keeps_stop=True) == ("", "The EN")


def test_stop_strings_wait_for_the_least_tokens() -> None:
    assert read("END of END", "END", min_tokens=4) == ("", "END of ")
