"""Is a model folder safe and complete enough to hand to MLX-LM?

MLX's own reader of safetensors is trusted only after the `safetensors` library accepted a file's
header, and no folder may bring Python code to run.
"""

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from mlxspec.errors import ModelImportError, ModelNotFoundError

CODE_HOOKS: Final = ("auto_map", "model_file")
PLUGIN_NAMES: Final = ("tool_parser_type", "chat_template_type")
ENCODERS: Final = frozenset({"bert"})
"""Models that read texts and write none, which run here without MLX-LM."""
MAX_JSON_BYTES: Final = 64 << 20
LOADABLE: Final = frozenset(
    {"BOOL", "U8", "U16", "U32", "U64", "I8", "I16", "I32", "I64"}
    | {"F16", "BF16", "F32", "C64", "F8_E4M3", "F8_E8M0"}
)
"""Types in safetensors files that MLX (0.32) reads, those of 8-bit floats as bytes."""


def check_folder(folder: Path) -> None:
    """Check a model folder before it is loaded; reads headers only.

    Raises ModelImportError naming the file and the reason, ModelNotFoundError when `folder` holds
    no model.
    """
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"{folder} holds no model: there is no config.json in it")
    config = read_json(folder / "config.json")
    _refuse_code(config, "config.json")
    if (folder / "tokenizer_config.json").is_file():
        _refuse_code(read_json(folder / "tokenizer_config.json"), "tokenizer_config.json")
    _check_architecture(config)
    for file in weight_files(folder):
        _check_weights(file)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ModelImportError when the file is not one."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelImportError(f"{path} is larger than {MAX_JSON_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelImportError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ModelImportError(f"{path} is not json: download the model again") from None
    if not isinstance(value, dict):
        raise ModelImportError(f"{path} is not a json object: download the model again")
    return value


def _refuse_code(config: dict[str, Any], name: str) -> None:
    for hook in CODE_HOOKS:
        if config.get(hook):
            raise ModelImportError(
                f"{name} asks to run the model's own code ({hook!r}), which mlxspec never does: "
                "use a model that mlx-lm supports by itself"
            )
    for key in PLUGIN_NAMES:
        value = config.get(key)
        if value is not None and not (isinstance(value, str) and value.isidentifier()):
            raise ModelImportError(f"{name}: {key} {value!r:.80} is not a name")


def _check_architecture(config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", model_type):
        raise ModelImportError(f"config.json: model_type {model_type!r:.80} is not a name")
    if model_type not in ENCODERS and not _is_known(model_type):
        raise ModelImportError(
            f"mlx-lm does not know model type {model_type!r}: upgrade it (pip install -U mlx-lm) "
            "or choose another model"
        )


def _is_known(model_type: str) -> bool:
    """Whether MLX-LM has this architecture, by its own name or another's.

    Looks at MLX-LM's files and imports nothing: this runs in processes that must not import mlx.
    """
    spec = importlib.util.find_spec("mlx_lm")
    roots = (spec.submodule_search_locations or []) if spec is not None else []
    return any(
        (Path(root) / "models" / f"{model_type}.py").is_file()
        or model_type in _other_names(Path(root) / "utils.py")
        for root in roots
    )


def _other_names(source: Path) -> set[str]:
    """The keys of the table by which MLX-LM takes one model type for another."""
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODEL_REMAPPING":
            return set(ast.literal_eval(node.value))
    return set()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all of those its index names."""
    files = sorted(folder.glob("model*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map", {})
        if not isinstance(shards, dict) or not all(isinstance(n, str) for n in shards.values()):
            raise ModelImportError(
                f"{index}: weight_map does not map names to files: download the model again"
            )
        missing = sorted(set(shards.values()) - {file.name for file in files})
        if missing:
            raise ModelImportError(f"{folder} lacks {missing[0]}: download the model again")
    if not files:
        raise ModelImportError(
            f"{folder} has no model*.safetensors: mlxspec loads no other weights "
            "(convert with 'python -m mlx_lm convert')"
        )
    return files


def _check_weights(file: Path) -> None:
    try:
        # Opening checks the whole header against the file.
        with safe_open(str(file), framework="numpy") as tensors:
            dtypes = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelImportError(f"{file}: {error}: download the model again") from None
    for name, dtype in dtypes.items():
        if dtype not in LOADABLE:
            raise ModelImportError(
                f"{file}: tensor {name!r:.80} is of type {dtype}, which mlx cannot load: "
                "save it as F32, F16 or BF16"
            )
