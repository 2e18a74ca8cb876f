"""What a server's processes hold in memory, by the system's own account."""

import subprocess
from collections import defaultdict


def resident_mib(pid: int) -> float:
    """Resident memory of a process and of all its descendants, in MiB."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, check=True, text=True
    )
    children: dict[int, list[int]] = defaultdict(list)
    resident: dict[int, int] = {}
    for line in table.stdout.splitlines():
        process, parent, kib = map(int, line.split())
        children[parent].append(process)
        resident[process] = kib
    total, family = 0, [pid]
    while family:
        process = family.pop()
        total += resident.get(process, 0)
        family.extend(children[process])
    return total / 1024
