"""What is found out about MLX, and what happens before it is imported."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import mlx.core as mx
import pytest

from mlxspec.model import backend
from mlxspec.model.backend import backend_facts, preload_blas, prepare, prepare_compile
from mlxspec.model.host_memory import HostMemory, host_memory


def in_new_process(code: str) -> str:
    """Run `code` in an interpreter that has imported nothing yet; return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name not in names:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(backend, "version", version)


def test_preloading_does_not_import_mlx():
    code = "import sys; from mlxspec.model.backend import preload_blas; preload_blas(); "
    assert in_new_process(code + "print('mlx.core' in sys.modules, 'mlx' in sys.modules)") == (
        "False False"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring their own BLAS")
def test_preloading_twice_finds_the_library_loaded_even_after_mlx_is_imported():
    code = (
        "from mlxspec.model.backend import preload_blas; first = preload_blas(); "
        "import mlx.core; print(first == preload_blas() or first.status == 'not found')"
    )
    assert in_new_process(code) == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems bring their own BLAS")
def test_preloading_after_mlx_is_too_late():
    code = (
        "import mlx.core; from mlxspec.model.backend import preload_blas; "
        "report = preload_blas(); print(report.status); print(report.advice)"
    )
    status, advice = in_new_process(code).splitlines()
    assert status == "too late"
    assert "prepare()" in advice


def test_a_missing_openblas_comes_with_the_commands_that_install_it(
    monkeypatch: pytest.MonkeyPatch,
):
    pretend_installed(monkeypatch)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    monkeypatch.setattr(backend, "OPENBLAS", "libnothing-of-this-name.so.0")
    report = preload_blas()
    assert report.status == "not found"
    assert report.advice is not None
    assert "apt-get install libopenblas0-pthread" in report.advice


@pytest.mark.parametrize(("platform", "package"), [("darwin", ""), ("linux", "mlx-cuda-13")])
def test_blas_is_not_needed_where_a_gpu_computes(
    monkeypatch: pytest.MonkeyPatch, platform: str, package: str
):
    pretend_installed(monkeypatch, package)
    monkeypatch.setattr(sys, "platform", platform)
    assert preload_blas().status == "not needed"


def test_cuda_caches_are_enlarged_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch):
    real = backend.version
    monkeypatch.setattr(backend, "version", lambda n: "1.0" if n == "mlx-cuda-12" else real(n))
    environ = {"MLX_CUDA_SDPA_CACHE_SIZE": "64"}
    report = prepare(environ)
    assert report.environment == environ
    assert environ["MLX_CUDA_SDPA_CACHE_SIZE"] == "64"
    assert int(environ["MLX_CUDA_GRAPH_CACHE_SIZE"]) >= 2000


def test_facts_describe_this_device():
    facts = backend_facts()
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    assert (facts.kind != "cpu") == on_gpu
    assert facts.weight_dtype == ("bfloat16" if on_gpu else "float32")
    assert 0 < facts.free_memory_bytes <= facts.memory_bytes
    assert facts.versions.keys() == {"mlxspec", "mlx", "mlx-lm", "python"}


@pytest.mark.parametrize(
    ("kind", "info", "expected"),
    [
        ("cuda", {"total_memory": 80, "free_memory": 70}, (80, 70)),
        ("cuda", {"total_memory": 80}, (80, 77)),
        ("metal", {"memory_size": 64, "max_recommended_working_set_size": 48}, (64, 45)),
    ],
)
def test_gpu_memory_is_what_the_device_reports(kind, info, expected):
    assert backend._device_memory(kind, info, 3) == expected


@pytest.mark.skipif(mx.default_device().type == mx.DeviceType.gpu, reason="needs no compiler")
def test_compile_is_switched_off_where_there_is_no_compiler(tmp_path: Path):
    code = (
        "import os; os.environ['PATH'] = {path!r}; import mlx.core as mx; "
        "from mlxspec.model.backend import prepare_compile; report = prepare_compile(); "
        "print(report.enabled, 'g++' in report.advice); "
        "print(mx.compile(lambda x: mx.exp(x) * 2 + 1)(mx.zeros(3)).tolist())"
    )
    assert in_new_process(code.format(path=str(tmp_path))).splitlines() == [
        "False True",
        "[3.0, 3.0, 3.0]",
    ]


def test_compile_stays_on_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert prepare_compile().enabled


def test_mlx_without_a_backend_says_which_extra_to_install():
    code = (
        "import sys; sys.modules['mlx.core'] = None\n"
        "from mlxspec.errors import ConfigError\n"
        "from mlxspec.model.backend import backend_facts\n"
        "try: backend_facts()\n"
        "except ConfigError as error: print(error.message)"
    )
    assert "mlxspec[cpu]" in in_new_process(code)


def kernel(root: Path, **files: str) -> Path:
    """A fake root with /proc and /sys files; `__` in a name stands for `/`."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal:  1000 kB\nMemFree: 100 kB\nMemAvailable:  600 kB\nHugePages_Total:       0\n"


def test_host_memory_is_what_could_be_taken_without_swapping(tmp_path: Path):
    assert host_memory(kernel(tmp_path, proc__meminfo=MEMINFO)) == HostMemory(1024000, 614400)


def test_a_container_limit_lowers_host_memory(tmp_path: Path):
    root = kernel(tmp_path, proc__meminfo=MEMINFO)
    cgroup = root / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    (cgroup / "memory.max").write_text("500000\n")
    (cgroup / "memory.current").write_text("300000\n")
    (cgroup / "memory.stat").write_text("anon 200000\ninactive_file 100000\n")
    assert host_memory(root) == HostMemory(500000, 300000)
    (cgroup / "memory.max").write_text("max\n")
    assert host_memory(root) == HostMemory(1024000, 614400)


def test_reports_become_json():
    import msgspec

    assert json.loads(msgspec.json.encode(prepare({})))["facts"]["kind"] == backend_facts().kind
