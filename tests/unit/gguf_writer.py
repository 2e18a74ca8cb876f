"""Write small GGUF files for tests: valid by default, with every part open to damage."""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, BLOCK = 64, 2, 4, 2, 96, 32
U32, I32, F32, BOOL, TEXT, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
KINDS = {"F32": 0, "F16": 1, "Q8_0": 8}
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in byte-level BPE, by byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def tiny_tokens() -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and token types of a small vocabulary with two control tokens."""
    space = byte_alphabet()[32]
    merges = ["h e", "l l", "he ll", "hell o", f"{space} w", "1 2"]
    merged = [merge.replace(" ", "") for merge in merges]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *byte_alphabet(), *merged, "<tool>"]
    kinds = [3, 3, 3] + [1] * (len(tokens) - 4) + [4]
    return tokens, merges, kinds


def tiny_metadata(**changes: Any) -> dict[str, tuple[int, Any]]:
    """The metadata of a two-layer llama; `changes` replace keys (`__` for `.`) or drop them."""
    tokens, merges, kinds = tiny_tokens()
    metadata = {
        "general.architecture": (TEXT, "llama"),
        "llama.embedding_length": (U32, HIDDEN),
        "llama.block_count": (U32, LAYERS),
        "llama.feed_forward_length": (U32, INNER),
        "llama.attention.head_count": (U32, HEADS),
        "llama.attention.head_count_kv": (U32, KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 10000.0),
        "llama.context_length": (U32, 128),
        "tokenizer.ggml.model": (TEXT, "gpt2"),
        "tokenizer.ggml.pre": (TEXT, "smollm"),
        "tokenizer.ggml.tokens": (ARRAY, (TEXT, tokens)),
        "tokenizer.ggml.merges": (ARRAY, (TEXT, merges)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, kinds)),
        "tokenizer.ggml.eos_token_id": (U32, 2),
        "tokenizer.ggml.bos_token_id": (U32, 1),
        "tokenizer.ggml.unknown_token_id": (U32, 0),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
        "tokenizer.chat_template": (TEXT, CHAT),
    }
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            metadata.pop(key)
        else:
            metadata[key] = value
    return metadata


def tiny_weights(seed: int = 0, *, tied: bool = True) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names, in Hugging Face's row order."""
    random, vocab, dim = np.random.default_rng(seed), len(tiny_tokens()[0]), HIDDEN // HEADS

    def matrix(rows: int, columns: int) -> np.ndarray:
        return random.normal(0, 0.1, (rows, columns)).astype(np.float32)

    weights = {"model.embed_tokens": matrix(vocab, HIDDEN), "model.norm": 1 + matrix(1, HIDDEN)[0]}
    if not tied:
        weights["lm_head"] = matrix(vocab, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        weights |= {
            prefix + "input_layernorm": 1 + matrix(1, HIDDEN)[0],
            prefix + "post_attention_layernorm": 1 + matrix(1, HIDDEN)[0],
            prefix + "self_attn.q_proj": matrix(HIDDEN, HIDDEN),
            prefix + "self_attn.k_proj": matrix(KV_HEADS * dim, HIDDEN),
            prefix + "self_attn.v_proj": matrix(KV_HEADS * dim, HIDDEN),
            prefix + "self_attn.o_proj": matrix(HIDDEN, HIDDEN),
            prefix + "mlp.gate_proj": matrix(INNER, HIDDEN),
            prefix + "mlp.up_proj": matrix(INNER, HIDDEN),
            prefix + "mlp.down_proj": matrix(HIDDEN, INNER),
        }
    return weights


_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def to_gguf(name: str, weight: np.ndarray) -> tuple[str, np.ndarray]:
    """GGUF's name and row order of a weight: rotated pairs of rows become neighbours."""
    if not name.startswith("model.layers."):
        return _NAMES[name] + ".weight", weight
    layer, short = name.removeprefix("model.layers.").split(".", 1)
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(short)
    if heads is not None:
        halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
        weight = halves.transpose(0, 2, 1, 3).reshape(weight.shape)
    return f"blk.{layer}.{_NAMES[short]}.weight", weight


def encode(weight: np.ndarray, kind: str) -> bytes:
    """The bytes of a tensor in one of KINDS."""
    if kind != "Q8_0":
        return weight.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
    blocks = weight.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype("<f2")
    quants = np.round(blocks / np.maximum(scales.astype(np.float32), 1e-12)).astype(np.int8)
    return b"".join(s.tobytes() + q.tobytes() for s, q in zip(scales, quants, strict=True))


def decoded(weight: np.ndarray, kind: str) -> np.ndarray:
    """What a reader should get back for `encode(weight, kind)`."""
    if kind != "Q8_0":
        return weight.astype({"F32": "<f4", "F16": "<f2"}[kind]).astype(np.float32)
    blocks = weight.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype("<f2").astype(np.float32)
    return (np.round(blocks / np.maximum(scales, 1e-12)) * scales).reshape(weight.shape)


@dataclass
class TensorEntry:
    """One tensor as it is written; `dims` innermost first, `offset` None: the next free."""

    name: str
    dims: list[int]
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class GgufFile:
    """A GGUF file to be written; change any field to damage it."""

    metadata: dict[str, tuple[int, Any]] = field(default_factory=tiny_metadata)
    tensors: list[TensorEntry] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    num_tensors: int | None = None
    num_pairs: int | None = None
    alignment: int = 32

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        pairs = b"".join(_text(key) + _pair(*value) for key, value in self.metadata.items())
        infos, data = b"", b""
        for tensor in self.tensors:
            data += bytes(-len(data) % self.alignment)
            offset = len(data) if tensor.offset is None else tensor.offset
            infos += _text(tensor.name) + struct.pack("<I", len(tensor.dims))
            infos += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
            infos += struct.pack("<IQ", tensor.kind, offset)
            data += tensor.data
        counts = (
            len(self.tensors) if self.num_tensors is None else self.num_tensors,
            len(self.metadata) if self.num_pairs is None else self.num_pairs,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts) + pairs + infos
        return head + bytes(-len(head) % self.alignment) + data


def tiny_file(
    weights: dict[str, np.ndarray] | None = None,
    kinds: dict[str, str] | None = None,
    **changes: Any,
) -> GgufFile:
    """A whole tiny llama. kinds: storage of weights by Hugging Face name, F32 for the rest."""
    file = GgufFile(metadata=tiny_metadata(**changes))
    for name, weight in (tiny_weights() if weights is None else weights).items():
        kind = (kinds or {}).get(name, "F32")
        stored_name, rows = to_gguf(name, weight)
        entry = TensorEntry(stored_name, list(rows.shape[::-1]), KINDS[kind], encode(rows, kind))
        file.tensors.append(entry)
    return file


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _pair(kind: int, value: Any) -> bytes:
    if kind == ARRAY:
        inner, items = value
        body = b"".join(_scalar(inner, item) for item in items)
        return struct.pack("<IIQ", ARRAY, inner, len(items)) + body
    return struct.pack("<I", kind) + _scalar(kind, value)


def _scalar(kind: int, value: Any) -> bytes:
    if kind == TEXT:
        return _text(value)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}[kind], value)
