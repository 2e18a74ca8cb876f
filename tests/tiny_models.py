"""Random models of two architectures with a tokenizer of letters: whole folders at once."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz .,0123456789"

CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": 48,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def save_model_with_tokenizer(folder: Path, kind: str, seed: int, **options: Any) -> Path:
    """A model folder of `kind` (llama or qwen3) whose weights belong to the seed.

    Options change its configuration.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama, qwen3

    folder.mkdir()
    config = CONFIG | {"model_type": kind} | options
    (folder / "config.json").write_text(json.dumps(config))
    module = {"llama": llama, "qwen3": qwen3}[kind]
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config))
    weights = {name: 1.5 * value for name, value in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    save_tokenizer(folder)
    return folder


def save_model_with_demo_words(folder: Path, demo_folder: Path) -> Path:
    """A model folder with the demo model's tokenizer and chat template, that babbles at once.

    For tests of everything around the model: its steps cost a hundredth.
    """
    limits = json.loads((demo_folder / "config.json").read_text())
    words = {name: limits[name] for name in ("vocab_size", "eos_token_id", "bos_token_id")}
    save_model_with_tokenizer(folder, "llama", seed=8, **words)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(demo_folder / name, folder / name)
    return folder


def letters(count: int) -> list[str]:
    """The words of a vocabulary of so many tokens."""
    return [*LETTERS, *(f"<{at}>" for at in range(len(LETTERS), count))]


def save_tokenizer(folder: Path, words: Sequence[str] = tuple(letters(48))) -> None:
    """A tokenizer of letters and a chat template that says what messages say."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    tokenizer = Tokenizer(WordLevel({it: at for at, it in enumerate(words)}, unk_token="<47>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<46>",
        "unk_token": "<47>",
        "chat_template": template,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_in_other_words(folder: Path, model: Path, tokens: Sequence[int]) -> Path:
    """A copy of a model of letters that knows only these of its tokens, and numbers them anew.

    Its embedding must be tied.
    """
    import mlx.core as mx

    config = json.loads((model / "config.json").read_text())
    words = letters(config["vocab_size"])
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": len(tokens)}))
    weights = mx.load(str(model / "model.safetensors"))
    embedding = "model.embed_tokens.weight"
    weights[embedding] = weights[embedding][mx.array(tokens)]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    save_tokenizer(folder, [words[token] for token in tokens])
    return folder
