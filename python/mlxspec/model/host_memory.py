"""Memory of this host as the kernel reports it, within the limits of the container."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class HostMemory:
    """Bytes in all, and bytes a new process could take without swapping."""

    total: int
    free: int


def host_memory(root: Path = Path("/")) -> HostMemory:
    """Read the host's memory; a cgroup limit lowers both figures.

    root: where /proc and /sys are found. Where there is no /proc (macOS), free equals total.
    """
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = _fields(root / "proc/meminfo")
    if "MemTotal:" in meminfo:
        total = meminfo["MemTotal:"] * 1024
    host = HostMemory(total, meminfo.get("MemAvailable:", total // 1024) * 1024)
    return _limited(host, root / "sys/fs/cgroup")


def _limited(host: HostMemory, cgroup: Path) -> HostMemory:
    limit, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if limit is None or used is None or limit >= host.total:
        return host
    # Inactive page cache counts as used, yet the kernel gives it up before it kills anyone.
    used -= _fields(cgroup / "memory.stat").get("inactive_file", 0)
    return HostMemory(limit, max(0, min(host.free, limit - used)))


def _fields(path: Path) -> dict[str, int]:
    """Lines of `name number ...` as a dict; empty when the file cannot be read."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {words[0]: int(words[1]) for words in map(str.split, lines) if len(words) > 1}


def _number(path: Path) -> int | None:
    """The number in a file; None when there is no file, or no number ("max") in it."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
