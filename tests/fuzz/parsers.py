"""Coverage-guided fuzzing of everything that reads a stranger's bytes in Python: `make fuzz`.

`python tests/fuzz/parsers.py TARGET [LIBFUZZER_OPTION]...` feeds one of `TARGETS` until its first
surprise: an error that is not the one its parser promises, or an input that takes a second.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mlxspec"]):
    from mlxspec.api import body as bodies
    from mlxspec.api.access.hosts import host_of
    from mlxspec.api.access.key_file import KeyFile
    from mlxspec.api.anthropic.messages import MESSAGES
    from mlxspec.api.ollama.generate import CHAT as OLLAMA_CHAT
    from mlxspec.api.ollama.keep_alive import keep_alive_seconds
    from mlxspec.api.openai.chat import DECODER as CHAT
    from mlxspec.api.openai.responses.routes import RESPONSE
    from mlxspec.errors import BadRequestError, ConfigError, KVFileError, ModelImportError
    from mlxspec.model.backend import prepare

    prepare()
    from mlxspec.model.folder_check import check_folder
    from mlxspec.model.gguf_header import read_header
    from mlxspec.model.kv_file import read_segment

sys.path.append(str(Path(__file__).parents[1] / "unit"))

import mlx.core as mx
import numpy as np
from gguf_writer import ARRAY, KINDS, TEXT, U32, GgufFile, TensorEntry
from safetensors.numpy import save

DECODERS = [CHAT, RESPONSE, MESSAGES, OLLAMA_CHAT]
CONFIG = {"model_type": "llama", "hidden_size": 32, "vocab_size": 48}
TALK = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stop": ["a", "b"]}
MAX_DEPTH = 64


MEMORY = Path("/dev/shm")
FOLDER = (MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())) / "-".join(
    ["mlxspec-fuzz", *sys.argv[1:2]]
)
"""Where parsers of files find theirs. libFuzzer ends at once: the next run clears it."""


def put(name: str, data: bytes) -> Path:
    """A file of these bytes that nobody else may read."""
    file = FOLDER / name
    file.touch(mode=0o600)
    file.write_bytes(data)
    return file


def weights(data: bytes) -> None:
    """What the gate lets through must be loadable, and no larger than its file."""
    file = put("model.safetensors", data)
    with suppress(ModelImportError):
        check_folder(FOLDER)
        arrays = mx.load(str(file))
        assert sum(array.nbytes for array in arrays.values()) <= len(data)
        mx.eval(arrays)


def config(data: bytes) -> None:
    put("model.safetensors", WEIGHTS)
    put("config.json", data)
    with suppress(ModelImportError):
        check_folder(FOLDER)


def gguf(data: bytes) -> None:
    """No tensor may lie outside the file."""
    with suppress(ModelImportError):
        header = read_header(memoryview(data))
        assert all(it.start + it.num_bytes <= len(data) for it in header.tensors.values())


def segment(data: bytes) -> None:
    file = put("segment.safetensors", data)
    with suppress(KVFileError):
        read_segment(file, [])
        raise AssertionError("a forged segment is taken for one of ours")


def key_file(data: bytes) -> None:
    with suppress(ConfigError):
        KeyFile(put("keys.json", data)).read()


def body(data: bytes) -> None:
    """Every dialect; what is decoded is checked for its depth."""
    for decoder in DECODERS:
        with suppress(BadRequestError):
            bodies.decode(data, decoder)
            bodies.check_depth(data, MAX_DEPTH)


def host(data: bytes) -> None:
    """Whatever is taken for a host has no character that a name or an address cannot have."""
    found = host_of(data.decode("latin-1"))
    assert found is None or set(found) <= set("abcdefghijklmnopqrstuvwxyz0123456789.:-_")


def duration(data: bytes) -> None:
    with suppress(BadRequestError):
        keep_alive_seconds(data.decode("latin-1"))


WEIGHTS = save({"w": np.zeros((2, 2), np.float32)})
GGUF = GgufFile(
    metadata={"general.alignment": (U32, 32), "tokens": (ARRAY, (TEXT, ["a", "b"]))},
    tensors=[TensorEntry("w", [4, 2], KINDS["F32"], bytes(32))],
)
TARGETS: dict[Callable[[bytes], None], list[bytes]] = {
    weights: [WEIGHTS],
    config: [json.dumps(CONFIG).encode(), b'{"model_type": "mistral", "auto_map": {}}'],
    gguf: [GGUF.to_bytes()],
    segment: [WEIGHTS, save({"check": np.zeros(32, np.uint8)})],
    key_file: [b'{"keys": []}'],
    body: [json.dumps(TALK).encode()],
    host: [b"localhost:8080", b"[::1]:80", b"127.0.0.1", b"a.example"],
    duration: [b"10m", b"1h30m", b"-1", b"1.5s"],
}
"""Parsers, and valid inputs to begin with."""


def main() -> None:
    """List the targets, or seed a corpus for one and let libFuzzer have it."""
    if len(sys.argv) == 1:
        print(*(target.__name__ for target in TARGETS), sep="\n")
        return
    name = sys.argv.pop(1)
    [target] = [it for it in TARGETS if it.__name__ == name]
    shutil.rmtree(FOLDER, ignore_errors=True)
    corpus = FOLDER / "corpus"
    corpus.mkdir(parents=True)
    put("config.json", json.dumps(CONFIG).encode())
    for at, seed in enumerate(TARGETS[target]):
        (corpus / f"{at}").write_bytes(seed)
    atheris.Setup([*sys.argv, "-timeout=1", str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
