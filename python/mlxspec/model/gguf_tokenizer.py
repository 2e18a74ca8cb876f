"""From the tokenizer in a GGUF header to tokenizer.json (byte-level BPE)."""

from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from mlxspec.errors import ModelImportError
from mlxspec.model.gguf_config import WAY_OUT
from mlxspec.model.gguf_metadata import Metadata

CONTROL: Final = 3
USER_DEFINED: Final = 4
"""Token types: control tokens mark up a chat, user-defined ones are plain text kept whole."""

_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How cl100k-like tokenizers cut text; they differ in how many digits stay together."""

_ROLES: Final = {
    "bos_token": "bos",
    "eos_token": "eos",
    "pad_token": "padding",
    "unk_token": "unknown",
}


def build_tokenizer(metadata: Metadata) -> Tokenizer:
    """Build the tokenizer a header describes.

    Raises ModelImportError for tokenizers that are not byte-level BPE, for pre-tokenizers other
    than smollm, gpt-2, llama-bpe and qwen2, and for vocabularies that contradict themselves.
    """
    model = metadata.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise ModelImportError(
            f"tokenizer {model!r} cannot be imported from gguf, only byte-level bpe ('gpt2'): "
            f"{WAY_OUT}"
        )
    splitter = metadata.text("tokenizer.ggml.pre", "default")
    tokens = metadata.texts("tokenizer.ggml.tokens")
    merges = _split_merges(metadata.texts("tokenizer.ggml.merges"))
    tokenizer = Tokenizer(_bpe(tokens, merges, whole_words=splitter == "llama-bpe"))
    tokenizer.pre_tokenizer = _pre_tokenizer(splitter)
    tokenizer.decoder = decoders.ByteLevel()
    if splitter == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    _add_special_tokens(tokenizer, metadata, tokens)
    _add_bos(tokenizer, metadata, tokens, default=splitter == "llama-bpe")
    return tokenizer


def tokenizer_config(metadata: Metadata, context_length: int) -> dict[str, Any]:
    """Build tokenizer_config.json: the tokens with a role, and the chat template."""
    tokens = metadata.texts("tokenizer.ggml.tokens")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
    }
    for role, key in _ROLES.items():
        token = metadata.token(f"tokenizer.ggml.{key}_token_id", len(tokens))
        if token is not None:
            config[role] = tokens[token]
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata.text("tokenizer.chat_template")
    return config


def generation_config(metadata: Metadata) -> dict[str, Any]:
    """Build generation_config.json: the ids that begin, end and pad a text."""
    num_tokens = len(metadata.texts("tokenizer.ggml.tokens"))
    ids = {
        role: metadata.token(f"tokenizer.ggml.{role}_token_id", num_tokens)
        for role in ("bos", "eos", "eot", "padding")
    }
    ends = sorted({token for token in (ids["eos"], ids["eot"]) if token is not None})
    if not ends:
        raise ModelImportError(f"the file names no end-of-text token: {WAY_OUT}")
    config: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else ends}
    if ids["bos"] is not None:
        config["bos_token_id"] = ids["bos"]
    if ids["padding"] is not None:
        config["pad_token_id"] = ids["padding"]
    return config


def _split_merges(merges: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ModelImportError(
                f"merge {merge!r:.60} is not two tokens: download the file again"
            )
        pairs.append((left, right))
    return pairs


def _bpe(tokens: list[str], merges: list[tuple[str, str]], *, whole_words: bool) -> BPE:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ModelImportError("two tokens of the file have the same text: download it again")
    for left, right in merges:
        if not {left, right, left + right} <= vocabulary.keys():
            raise ModelImportError(
                f"merge {left!r:.40} + {right!r:.40} is not in the vocabulary: download it again"
            )
    return BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_words)


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    match name:
        case "smollm":
            first: pre_tokenizers.PreTokenizer = pre_tokenizers.Digits(individual_digits=True)
        case "gpt-2":
            return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        case "llama-bpe":
            first = _split(digits="{1,3}")
        case "qwen2":
            first = _split(digits="")
        case _:
            raise ModelImportError(
                f"pre-tokenizer {name!r} cannot be imported from gguf "
                f"(smollm, gpt-2, llama-bpe and qwen2 can): {WAY_OUT}"
            )
    second = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "smollm")
    return pre_tokenizers.Sequence([first, second])


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    pattern = Regex(_SPLIT.replace("DIGITS", digits))
    return pre_tokenizers.Split(pattern, behavior="isolated")


def _add_special_tokens(tokenizer: Tokenizer, metadata: Metadata, tokens: list[str]) -> None:
    kinds = metadata.ints("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise ModelImportError(
            f"the file has {len(tokens)} tokens and {len(kinds)} token types: download it again"
        )
    added = [
        AddedToken(token, special=kind == CONTROL, normalized=False)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED) and token
    ]
    tokenizer.add_tokens(added)


def _add_bos(tokenizer: Tokenizer, metadata: Metadata, tokens: list[str], *, default: bool) -> None:
    """Begin plain encodings with the bos token where the file asks for it."""
    bos = metadata.token("tokenizer.ggml.bos_token_id", len(tokens))
    if bos is None or not metadata.flag("tokenizer.ggml.add_bos_token", default):
        return
    tokenizer.post_processor = TemplateProcessing(
        single=f"{tokens[bos]} $A", pair=f"{tokens[bos]} $A $B", special_tokens=[(tokens[bos], bos)]
    )
