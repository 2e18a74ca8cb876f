"""A process that has run the engine ends as any other does, at once after the engine thread."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
sys.path[:0] = sys.argv[2:]
from mlxspec.model.backend import prepare
prepare()
from pathlib import Path
from token_engine import token_engine
with token_engine(Path(sys.argv[1])) as engine:
    assert engine.generate([1, 2, 3])
"""


def test_the_process_of_an_engine_ends_well(tiny_folder: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, tiny_folder, here, here.parent]
    ended = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == b""
