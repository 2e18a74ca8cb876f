"""Every verb through click's runner: what it prints, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from click.testing import CliRunner, Result

from mlxspec import __version__
from mlxspec.cli import cli
from mlxspec.cli.size import readable
from mlxspec.model.load import load


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def stored(store_home: Path, tiny_gguf: Path) -> str:
    """The tiny model, imported into the store by the command line."""
    assert run("import", tiny_gguf, "--dtype", "float16").exit_code == 0
    return "tiny"


@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_is_quantised_into_the_store_and_can_be_loaded(
    store_home: Path, tiny_model: Path, bits: int
):
    before = sum(file.stat().st_size for file in tiny_model.glob("*.safetensors"))
    done = run("pull", tiny_model, "--quantize", bits, "--group-size", 32)
    assert done.exit_code == 0, done.output
    name = f"{tiny_model.name}-{bits}bit"
    assert f"serve it: mlxspec serve {name}" in done.output
    assert f"{bits}-bit" in run("show", name).output
    made = store_home / name
    assert sum(file.stat().st_size for file in made.glob("*.safetensors")) < before
    loaded = load(made, None)
    tokens = mx.array([[1, 2, 3]])
    assert mx.isfinite(loaded.model(tokens)).all().item()
    again = run("pull", tiny_model, "--quantize", bits, "--group-size", 32)
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_what_cannot_be_quantised_leaves_nothing_behind(store_home: Path, tiny_model: Path):
    assert run("pull", tiny_model, "--quantize", 4, "--group-size", 32).exit_code == 0
    twice = run("pull", store_home / f"{tiny_model.name}-4bit", "--quantize", 8)
    assert twice.exit_code == 1
    assert "is quantised already" in twice.output
    assert [folder.name for folder in store_home.iterdir()] == [f"{tiny_model.name}-4bit"]


@pytest.mark.parametrize("flag", ["--version", "--help", "serve --help", "doctor --help"])
def test_version_and_help_import_no_heavy_packages(flag: str):
    code = (
        "import sys; from mlxspec.cli import cli\n"
        f"try: cli({flag.split()!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'mlx', 'mlx_lm', 'litestar', 'transformers', 'tokenizers', 'huggingface_hub'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "mlxspec", "--version"], capture_output=True, text=True, check=True
    )
    assert __version__ in done.stdout


def test_an_error_is_one_red_line_on_stderr_and_exit_code_1(store_home: Path):
    result = CliRunner().invoke(cli, ["show", "nothing"], color=True)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("\x1b[31merror: no model 'nothing'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["nonesuch"], ["serve", "--port", "x"], ["show"], ["import", "a", "--dtype", "i"]]
)
def test_wrong_usage_ends_with_2(arguments: list[str]):
    assert run(*arguments).exit_code == 2


def test_import_list_show_and_rm_a_model(stored: str, store_home: Path):
    assert "tiny" in run("list").stdout
    shown = run("show", stored).stdout
    assert "llama, float16" in shown
    assert "tiny.gguf" in shown
    assert run("rm", stored).stdout.startswith("removed tiny, ")
    assert "mlxspec pull demo" in run("list").stdout
    assert list(store_home.iterdir()) == []


def test_list_and_show_speak_json(stored: str):
    (listed,) = json.loads(run("list", "--json").stdout)
    shown = json.loads(run("show", stored, "--json").stdout)
    assert shown["model"] == listed
    assert shown["manifest"]["source"] == "tiny.gguf"


def test_import_takes_a_name_and_refuses_one_that_is_taken(stored: str, tiny_gguf: Path):
    assert run("import", tiny_gguf, "--name", "owner/other").exit_code == 0
    again = run("import", tiny_gguf)
    assert again.exit_code == 1
    assert "mlxspec rm tiny" in again.stderr
    escaping = run("import", tiny_gguf, "--name", "../other")
    assert escaping.exit_code == 1
    assert "cannot name a model" in escaping.stderr


def test_import_of_something_else_says_why(store_home: Path, tmp_path: Path):
    (tmp_path / "x.gguf").write_bytes(b"GGML" + bytes(60))
    result = run("import", tmp_path / "x.gguf")
    assert result.exit_code == 1
    assert "not a gguf file" in result.stderr


def test_doctor_names_the_next_command(store_home: Path, tiny_gguf: Path):
    assert "mlxspec pull demo" in run("doctor").stdout
    run("import", tiny_gguf)
    diagnosis = json.loads(run("doctor", "--json").stdout)
    assert diagnosis["next_command"] == "mlxspec serve tiny"
    assert diagnosis["models"] == ["tiny"]
    assert diagnosis["matmul_gflops"] > 0
    assert diagnosis["backend"]["facts"]["memory_bytes"] > 1 << 20


def test_pull_of_what_cannot_be_had_says_why(store_home: Path):
    result = run("pull", "owner/name")
    assert result.exit_code == 1
    assert "owner/name cannot be downloaded" in result.stderr


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (538090275, "513 MiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_sizes_are_readable(num_bytes: int, text: str):
    assert readable(num_bytes) == text
