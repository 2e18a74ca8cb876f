"""How much memory this process holds, as the kernel counts it."""

import os
from pathlib import Path


def process_bytes(root: Path = Path("/")) -> int | None:
    """Bytes of this process in memory; None where there is no /proc (macOS)."""
    try:
        fields = (root / "proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
