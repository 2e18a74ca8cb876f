"""A quantised copy of a model folder in the store, by mlx-lm's own quantisation."""

import shutil
from pathlib import Path
from typing import Final

import mlx.core as mx
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from mlxspec.errors import ModelImportError
from mlxspec.model.folder import Manifest, assemble
from mlxspec.model.folder_check import check_folder
from mlxspec.model.kv_key import weights_digest

_BESIDE: Final = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.tiktoken",
    "tokenizer.model",
    "LICENSE*",
    "NOTICE*",
)
_MADE_ANEW: Final = frozenset({"config.json", "model.safetensors.index.json", "mlxspec.json"})


def quantise(source: Path, target: Path, bits: int, group_size: int) -> Path:
    """Write `source`, a model folder, to `target` with weights of `bits` in groups of `group_size`.

    The folder appears whole or not at all. Raises ModelImportError for a model that is quantised
    already, that mlx-lm does not know, or whose weights do not come in such groups.
    """
    check_folder(source)
    with assemble(target) as aside:
        try:
            model, config = load_model(source, lazy=True)
            if "quantization" in config:
                raise ModelImportError(f"{source.name} is quantised already: pull it as it is")
            model, config = quantize_model(model, config, group_size, bits)
        except ValueError as error:
            raise ModelImportError(f"{source.name}: {error}") from None
        if "quantization" not in config:
            raise ModelImportError(f"{source.name} has nothing to quantise: pull it as it is")
        save_model(aside, model, donate_model=True)
        save_config(config, aside / "config.json")
        for pattern in _BESIDE:
            for file in source.glob(pattern):
                if file.name not in _MADE_ANEW:
                    shutil.copy(file, aside / file.name)
        digest = weights_digest(source, lambda: None)
        Manifest.of(aside, str(source), digest, f"{bits}-bit").write(aside)
    del model
    mx.clear_cache()
    return target
