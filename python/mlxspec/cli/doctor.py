"""`mlxspec doctor`: is this machine ready, and what to type next."""

import time

import msgspec
import rich_click as click

from mlxspec.cli.size import readable
from mlxspec.model.backend import BackendReport


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All that doctor found. `matmul_gflops`: measured speed of one float32 matrix product."""

    backend: BackendReport
    matmul_gflops: float
    store: str
    models: list[str]
    next_command: str


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Check backend, memory, BLAS, compiler and models, and say what to do next."""
    diagnosis = _diagnose()
    click.echo(msgspec.json.encode(diagnosis) if as_json else _text(diagnosis))


def _diagnose() -> Diagnosis:
    from mlxspec.model.backend import prepare
    from mlxspec.model.store import list_models, models_dir

    backend = prepare()
    names = [model.name for model in list_models()]
    return Diagnosis(
        backend=backend,
        matmul_gflops=_measure_matmul(),
        store=str(models_dir()),
        models=names,
        next_command=f"mlxspec serve {names[0]}" if names else "mlxspec pull demo",
    )


def _measure_matmul(size: int = 512) -> float:
    """Billions of float32 operations a second in a (size x size) product; best of four."""
    import mlx.core as mx

    matrix = mx.ones((size, size))
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        mx.eval(matrix @ matrix)
        times.append(time.perf_counter() - begin)
    return round(2 * size**3 / min(times) / 1e9, 1)


def _text(diagnosis: Diagnosis) -> str:
    facts, blas, compiled = (
        diagnosis.backend.facts,
        diagnosis.backend.blas,
        diagnosis.backend.compile,
    )
    memory = f"{readable(facts.free_memory_bytes)} free of {readable(facts.memory_bytes)}"
    lines = [
        ("versions", ", ".join(f"{name} {number}" for name, number in facts.versions.items())),
        ("backend", f"{facts.kind} ({facts.device_name}), weights in {facts.weight_dtype}"),
        ("memory", memory),
        ("openblas", _with_advice(blas.status, blas.advice)),
        ("compile", _with_advice("on" if compiled.enabled else "off", compiled.advice)),
        ("matmul", f"{diagnosis.matmul_gflops} GFLOP/s float32"),
        ("store", diagnosis.store),
        ("models", ", ".join(diagnosis.models) or "none"),
        ("next", diagnosis.next_command),
    ]
    return "\n".join(f"{name:<10}{value}" for name, value in lines)


def _with_advice(status: str, advice: str | None) -> str:
    return f"{status}: {advice}" if advice else status
