"""Step costs that earlier servers measured: a small file for each device and model."""

from hashlib import blake2b
from pathlib import Path

import msgspec
import structlog

from mlxspec import __version__
from mlxspec.model.backend import BackendFacts
from mlxspec.speculative.calibrate import StepCosts
from mlxspec.whole_file import write_whole

log = structlog.get_logger()


class Measured(msgspec.Struct, frozen=True):
    """What steps of one network cost, and whether they ran traced."""

    costs: StepCosts
    compiled: bool


class CostStore:
    """Files in one folder. Nothing here fails: what cannot be read is measured again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> Measured | None:
        """What is written under this name, if anything sound is."""
        try:
            found = msgspec.json.decode(self._path(name).read_bytes(), type=Measured)
        except (OSError, msgspec.DecodeError):
            return None
        sound = all(tokens > 0 and ms > 0 for tokens, ms in found.costs.step_cost)
        return found if found.costs.step_cost and sound else None

    def write(self, name: str, measured: Measured) -> None:
        """Keep what was measured, in place of what was."""
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, msgspec.json.encode(measured))
        except OSError as error:
            log.warning("step costs cannot be kept", file=str(path), error=str(error))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def cost_name(device: BackendFacts, models: list[Path], layout: str) -> str:
    """Names everything that costs depend on: device, versions, layout, configuration and weights.

    models: folders of the model measured and of those whose layers share its rows.
    """
    digest = blake2b(digest_size=16)

    def add(part: object) -> None:
        digest.update(f"{part}\n".encode())

    add((__version__, sorted(device.versions.items()), device.kind, device.device_name, layout))
    for folder in models:
        add((folder / "config.json").read_text())
        for file in sorted(folder.glob("*.safetensors")):
            found = file.stat()
            add((file.name, found.st_size, found.st_mtime_ns))
    return digest.hexdigest()
