"""From the `llama.*` keys of a GGUF header to the configuration and weight names of MLX-LM.

The plan is complete before any tensor is read: every tensor the model needs, its shape, and none
besides. A file that does not fit the plan is refused by name.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from mlxspec.errors import ModelImportError
from mlxspec.model.gguf_header import Header
from mlxspec.model.gguf_metadata import Metadata

ROPE_FACTORS: Final = "rope_freqs.weight"
WAY_OUT: Final = "take the model in mlx format instead (mlx-community on hugging face has most)"


@dataclass(frozen=True)
class Source:
    """Where one weight of the target comes from; `rope_heads` > 0 asks for un-permuting."""

    name: str
    shape: tuple[int, ...]
    rope_heads: int = 0


def read_config(header: Header) -> dict[str, Any]:
    """Build config.json of a llama-architecture file, without dtype and token ids.

    Raises ModelImportError for other architectures, mixtures of experts, and scaled RoPE that
    MLX-LM's llama cannot express.
    """
    metadata = Metadata(header.metadata)
    _check_architecture(metadata)
    hidden, heads = metadata.count("llama.embedding_length"), metadata.count(_HEADS)
    head_dim = metadata.count("llama.attention.key_length", hidden // heads or None)
    kv_heads = metadata.count(_KV_HEADS, heads)
    _check_heads(metadata, heads, kv_heads, head_dim)
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": metadata.count("llama.block_count"),
        "intermediate_size": metadata.count("llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": _shortest_float(metadata.positive(_EPSILON)),
        "rope_theta": metadata.positive("llama.rope.freq_base", 10000.0),
        "max_position_embeddings": metadata.count("llama.context_length"),
        "vocab_size": len(metadata.texts("tokenizer.ggml.tokens")),
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in header.tensors,
    }
    return config | _linear_scaling(metadata)


_HEADS: Final = "llama.attention.head_count"
_KV_HEADS: Final = "llama.attention.head_count_kv"
_EPSILON: Final = "llama.attention.layer_norm_rms_epsilon"


def plan_weights(header: Header, config: dict[str, Any]) -> dict[str, Source]:
    """Map every weight of the target to its tensor in the file; both sides must match exactly.

    Raises ModelImportError naming the first tensor that is missing, ill-shaped, or not known.
    """
    if config["num_hidden_layers"] > len(header.tensors):
        raise ModelImportError(
            f"the file says {config['num_hidden_layers']} layers but holds "
            f"{len(header.tensors)} tensors: download it again"
        )
    plan = _outer_weights(config)
    for layer in range(config["num_hidden_layers"]):
        plan |= _layer_weights(config, layer)
    for source in plan.values():
        _check_tensor(header, source)
    unknown = header.tensors.keys() - {source.name for source in plan.values()} - {ROPE_FACTORS}
    if unknown:
        raise ModelImportError(f"tensor {min(unknown)!r} is not part of a llama model: {WAY_OUT}")
    return plan


def llama3_scaling(factors: list[float], config: dict[str, Any]) -> dict[str, Any]:
    """Find the `llama3` rope scaling whose per-frequency factors the file stores.

    factors: one per pair of a head's dimensions. Raises ModelImportError when no llama3 scaling
    with the usual corner frequencies (8192 / 1 and 8192 / 4) gives them.
    """
    dim, base, factor = config["head_dim"], config["rope_theta"], max(factors)
    same = all(1 <= found < math.inf for found in factors) and all(
        math.isclose(found, _llama3_factor(factor, base ** (2 * pair / dim)), rel_tol=1e-3)
        for pair, found in enumerate(factors)
    )
    if not same:
        raise ModelImportError(f"the rope factors of the file are not llama 3's: {WAY_OUT}")
    return {
        "rope_type": "llama3",
        "factor": _shortest_float(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def _llama3_factor(factor: float, inverse_frequency: float) -> float:
    """Long waves are stretched by `factor`, short ones kept, those between interpolated."""
    turns = 8192 / (2 * math.pi * inverse_frequency)
    smooth = min(max((turns - 1.0) / 3.0, 0.0), 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _check_architecture(metadata: Metadata) -> None:
    parts = metadata.value("split.count")
    if isinstance(parts, int) and parts > 1:
        raise ModelImportError(
            f"the file is one of {parts} parts: join them with 'llama-gguf-split --merge' first"
        )
    architecture = metadata.text("general.architecture")
    if architecture != "llama":
        raise ModelImportError(
            f"architecture {architecture!r} cannot be imported from gguf, only 'llama': {WAY_OUT}"
        )
    if metadata.value("llama.expert_count"):
        raise ModelImportError(f"mixtures of experts cannot be imported from gguf: {WAY_OUT}")


def _check_heads(metadata: Metadata, heads: int, kv_heads: int, head_dim: int) -> None:
    if heads % kv_heads or head_dim % 2:
        raise ModelImportError(
            f"{heads} heads, {kv_heads} kv heads of {head_dim} dimensions do not make a llama "
            "model: download the file again"
        )
    rotated = metadata.count("llama.rope.dimension_count", head_dim)
    value_dim = metadata.count("llama.attention.value_length", head_dim)
    if (rotated, value_dim) != (head_dim, head_dim):
        raise ModelImportError(
            f"heads of {head_dim} dimensions with {rotated} rotated and {value_dim} in values "
            f"are not supported: {WAY_OUT}"
        )


def _linear_scaling(metadata: Metadata) -> dict[str, Any]:
    kind = metadata.text("llama.rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind != "linear":
        raise ModelImportError(f"rope scaling {kind!r} cannot be imported from gguf: {WAY_OUT}")
    factor = metadata.positive("llama.rope.scaling.factor")
    return {"rope_scaling": {"rope_type": "linear", "factor": factor}}


def _outer_weights(config: dict[str, Any]) -> dict[str, Source]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    plan = {
        "model.embed_tokens.weight": Source("token_embd.weight", (vocab, hidden)),
        "model.norm.weight": Source("output_norm.weight", (hidden,)),
    }
    if not config["tie_word_embeddings"]:
        plan["lm_head.weight"] = Source("output.weight", (vocab, hidden))
    return plan


def _layer_weights(config: dict[str, Any], layer: int) -> dict[str, Source]:
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    sources = {
        "input_layernorm": Source("attn_norm", (hidden,)),
        "post_attention_layernorm": Source("ffn_norm", (hidden,)),
        "self_attn.q_proj": Source("attn_q", (heads * dim, hidden), heads),
        "self_attn.k_proj": Source("attn_k", (kv_heads * dim, hidden), kv_heads),
        "self_attn.v_proj": Source("attn_v", (kv_heads * dim, hidden)),
        "self_attn.o_proj": Source("attn_output", (hidden, heads * dim)),
        "mlp.gate_proj": Source("ffn_gate", (inner, hidden)),
        "mlp.up_proj": Source("ffn_up", (inner, hidden)),
        "mlp.down_proj": Source("ffn_down", (hidden, inner)),
    }
    return {
        f"model.layers.{layer}.{target}.weight": Source(
            f"blk.{layer}.{source.name}.weight", source.shape, source.rope_heads
        )
        for target, source in sources.items()
    }


def _check_tensor(header: Header, source: Source) -> None:
    tensor = header.tensors.get(source.name)
    if tensor is None:
        raise ModelImportError(f"tensor {source.name!r} is missing: download the file again")
    if tensor.shape != source.shape:
        raise ModelImportError(
            f"tensor {source.name!r} has shape {tensor.shape}, the metadata ask for "
            f"{source.shape}: download the file again"
        )


def _shortest_float(single: float) -> float:
    """The shortest decimal a float32 stands for: 9.999999747378752e-06 means 1e-05."""
    return float(f"{single:.7g}")
