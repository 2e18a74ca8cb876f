"""The bench's words: the machine, a line per contender and cell, the ratios, and the raw values."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlxspec.model.backend import backend_facts
from serving.figures import CONTENDERS, OFF, ON, PEER, Cell, Round


def machine() -> dict[str, str]:
    """What the figures belong to. Load is of the last minute, before the bench."""
    facts = backend_facts()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "device": f"{_processor()}, {os.cpu_count()} cores, mlx on {facts.kind}",
        "load": f"{os.getloadavg()[0]:.2f}",
        "commit": _commit(),
        **facts.versions,
    }


def machine_line(facts: dict[str, str]) -> str:
    """The machine in one line."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def header() -> str:
    """The columns of `cell_lines`."""
    return (
        f"{'kind':5} {'clients':>7}  {'server':12} {'tok/s':>7} {'decode/s':>8} {'ttft ms':>8} "
        f"{'gap p50':>8} {'gap p99':>8} {'accepted':>9} {'client cpu':>10}"
    )


def cell_lines(cell: Cell) -> str:
    """One line per contender: medians over the rounds."""
    return "\n".join(_line(cell, contender) for contender in CONTENDERS)


def ratio_lines(cells: Sequence[Cell]) -> str:
    """Ratios of tokens per second, median (least to most) over the rounds, and equal answers."""
    title = (
        f"{'kind':5} {'clients':>7}  {'on/mlx_lm':>19} {'on/off':>19} {'off/mlx_lm':>19} "
        f"{'decode on/mlx_lm':>19} {'decode on/off':>19}   same text on=off, on=mlx_lm"
    )
    return "\n".join([title, *map(_ratio_line, cells)])


def count_warnings(cells: Sequence[Cell]) -> list[str]:
    """A sentence for every pair of contenders whose token counts differ where texts do not."""
    return [
        f"{cell.kind} at {cell.clients}: {ON} and {other} count tokens differently in {number} "
        "answers with the same text"
        for cell in cells
        for other in (OFF, PEER)
        if (number := cell.same_text_other_count(ON, other))
    ]


def write_json(path: Path, facts: dict[str, str], settings: dict[str, Any], cells: Any) -> None:
    """Everything measured, down to each answer and the time of each piece of it."""
    report = {"machine": facts, "settings": settings, "cells": cells}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))


def _line(cell: Cell, contender: str) -> str:
    def figure(name: str) -> float | None:
        def read(measured: Round) -> float | None:
            value: float | None = getattr(measured, name)
            return value

        return cell.median(contender, read)

    accepted, cpu = figure("acceptance_length"), figure("client_cpu") or 0
    return (
        f"{cell.kind:5} {cell.clients:7}  {contender:12} {figure('tokens_per_second'):7.1f} "
        f"{figure('decode_per_second'):8.1f} {figure('ttft_ms'):8.0f} "
        f"{figure('gap_p50_ms'):8.1f} {figure('gap_p99_ms'):8.1f} "
        f"{'-' if accepted is None else f'{accepted:.2f}':>9} {cpu:10.1%}"
    )


def _ratio_line(cell: Cell) -> str:
    pairs = ((ON, PEER), (ON, OFF), (OFF, PEER))
    whole = [cell.ratios(over, under, lambda it: it.tokens_per_second) for over, under in pairs]
    decode = [cell.ratios(ON, other, lambda it: it.decode_per_second) for other in (PEER, OFF)]
    ratios = " ".join(f"{_spread(values):>19}" for values in (*whole, *decode))
    same = f"{cell.same_text(ON, OFF):6.0%} {cell.same_text(ON, PEER):6.0%}"
    return f"{cell.kind:5} {cell.clients:7}  {ratios}   {same}"


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _processor() -> str:
    """The processor's name, which no standard library call gives on Linux or on a Mac."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].partition(":")[2].strip()
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()


def _commit() -> str:
    commit = _output("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(Path(__file__).parent), "status", "--porcelain", "-uno")
    return (commit or "unknown") + (" with changes" if changed else "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
