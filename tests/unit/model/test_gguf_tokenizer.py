"""Tokenizers built from GGUF metadata: how they cut text, and that text comes back whole."""

import pytest
from gguf_writer import ARRAY, BOOL, I32, TEXT, U32, byte_alphabet, tiny_metadata, tiny_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxspec.errors import ModelImportError
from mlxspec.model.gguf_metadata import Metadata
from mlxspec.model.gguf_tokenizer import build_tokenizer, generation_config, tokenizer_config

PRE_TOKENIZERS = ["smollm", "gpt-2", "llama-bpe", "qwen2"]
TEXTS = [
    "hello world 12345",
    "naïve café 日本語 🙂👩‍👧",
    "def f(x):\n\treturn  x ** 2  # ok\n\n\n",
    "<|im_start|>user\nhello<|im_end|><tool>",
    "  spaces \r\n\x00 and\u200bmore ",
]


def metadata(**changes) -> Metadata:
    return Metadata(
        {
            key: value[1] if kind == ARRAY else value
            for key, (kind, value) in tiny_metadata(**changes).items()
        }
    )


def build(pre: str):
    return build_tokenizer(metadata(tokenizer__ggml__pre=(TEXT, pre)))


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back_whole(pre: str, text: str):
    tokenizer = build(pre)
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


SMOLLM = build("smollm")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back_whole(text: str):
    assert SMOLLM.decode(SMOLLM.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "digits"),
    [
        ("smollm", ["1", "2", "1", "2"]),
        ("gpt-2", ["12", "12"]),
        ("llama-bpe", ["12", "1", "2"]),
        ("qwen2", ["1", "2", "1", "2"]),
    ],
)
def test_digits_are_kept_together_as_each_pre_tokenizer_does(pre: str, digits: list[str]):
    assert build(pre).encode("1212").tokens == digits


def test_merges_join_tokens_across_a_leading_space():
    space = byte_alphabet()[32]
    assert SMOLLM.encode("hello world").tokens == ["hello", f"{space}w", "o", "r", "l", "d"]


@pytest.mark.parametrize(("pre", "tokens"), [("llama-bpe", ["zz"]), ("qwen2", ["z", "z"])])
def test_only_llama_bpe_takes_a_whole_word_that_no_merge_makes(pre: str, tokens: list[str]):
    vocabulary = (ARRAY, (TEXT, [*tiny_tokens()[0], "zz"]))
    kinds = (ARRAY, (I32, [*tiny_tokens()[2], 1]))
    changed = metadata(
        tokenizer__ggml__pre=(TEXT, pre),
        tokenizer__ggml__tokens=vocabulary,
        tokenizer__ggml__token_type=kinds,
    )
    assert build_tokenizer(changed).encode("zz").tokens == tokens


def test_control_tokens_are_one_token_and_are_skipped_in_output():
    ids = SMOLLM.encode("<|im_start|>hello<|im_end|>").ids
    assert (ids[0], ids[-1], len(ids)) == (1, 2, 3)
    assert SMOLLM.decode(ids) == "hello"


def test_user_defined_tokens_are_one_token_and_stay_in_output():
    ids = SMOLLM.encode("<tool>").ids
    assert len(ids) == 1
    assert SMOLLM.decode(ids) == "<tool>"


def test_bos_begins_a_text_only_where_the_file_asks_for_it():
    asked = build_tokenizer(metadata(tokenizer__ggml__add_bos_token=(BOOL, True)))
    assert asked.encode("hello").ids[0] == 1
    assert SMOLLM.encode("hello").ids[0] != 1


def test_the_configs_name_the_tokens_and_the_template():
    config = tokenizer_config(metadata(), 128)
    assert config["eos_token"] == "<|im_end|>"
    assert config["bos_token"] == "<|im_start|>"
    assert config["unk_token"] == "<|endoftext|>"
    assert "pad_token" not in config
    assert config["chat_template"].startswith("{% for m")
    assert generation_config(metadata()) == {"eos_token_id": 2, "bos_token_id": 1}


def test_an_end_of_turn_token_ends_generation_too():
    both = metadata(tokenizer__ggml__eot_token_id=(U32, 0))
    assert generation_config(both)["eos_token_id"] == [0, 2]


TOKENS, MERGES, KINDS = tiny_tokens()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokenizer__ggml__model": (TEXT, "llama")}, "tokenizer 'llama'"),
        ({"tokenizer__ggml__pre": (TEXT, "deepseek-llm")}, "pre-tokenizer 'deepseek-llm'"),
        ({"tokenizer__ggml__pre": None}, "pre-tokenizer 'default'"),
        ({"tokenizer__ggml__merges": None}, "merges' is missing"),
        ({"tokenizer__ggml__merges": (ARRAY, (TEXT, ["he"]))}, "not two tokens"),
        ({"tokenizer__ggml__merges": (ARRAY, (TEXT, ["h e l"]))}, "not two tokens"),
        ({"tokenizer__ggml__merges": (ARRAY, (TEXT, ["z z"]))}, "not in the vocabulary"),
        ({"tokenizer__ggml__tokens": (ARRAY, (TEXT, [*TOKENS, "h"]))}, "same text"),
        ({"tokenizer__ggml__tokens": (ARRAY, (U32, [1, 2]))}, "tokens' is"),
        ({"tokenizer__ggml__token_type": (ARRAY, (I32, [1]))}, "1 token types"),
        ({"tokenizer__ggml__bos_token_id": (U32, 1 << 20)}, "bos_token_id' is 1048576"),
    ],
)
def test_tokenizers_that_cannot_be_built_are_refused(change: dict, said: str):
    with pytest.raises(ModelImportError, match=said):
        build_tokenizer(metadata(**change))


def test_a_file_without_an_end_token_is_refused():
    with pytest.raises(ModelImportError, match="no end-of-text token"):
        generation_config(metadata(tokenizer__ggml__eos_token_id=None))
