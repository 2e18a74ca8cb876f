"""`mlxspec serve`: from flags, environment and files to the configuration the server gets."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from mlxspec.cli import cli
from mlxspec.cli import serve as serve_verb
from mlxspec.config import AccessConfig, Config


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What the server was started with; it is not really started."""
    configs: list[Config] = []
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nowhere")  # this machine's own keys are not ours
    server = ModuleType("mlxspec.server")
    server.serve = configs.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlxspec.server", server)
    return configs


def serve(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(cli, ["serve", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def store(store_home: Path, tiny_gguf: Path, *names: str) -> None:
    from mlxspec.model.gguf import import_gguf

    for name in names:
        import_gguf(tiny_gguf, store_home / name, "float32")


def test_every_flag_reaches_its_place(served: list[Config], store_home: Path, tiny_model: Path):
    result = serve(
        tiny_model, "--host", "::1", "--port", 9, "--no-speculation", "--max-draft", 7,
        "--max-running", 3, "--max-waiting", 4, "--step-tokens", 5, "--prefill-chunk", 6,
        "--kv-memory", "1GiB", "--memory", "2GiB", "--when-full", "fail",
        "--context-length", 64, "--log-level", "debug",
        "--drain-seconds", 0.5, "--allowed-host", "a.example", "--allowed-origin", "https://b",
        "--key-file", "keys.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (config,) = served
    assert (config.server.host, config.server.port) == ("::1", 9)
    assert (config.server.log_level, config.server.drain_seconds) == ("debug", 0.5)
    assert (config.speculation.enabled, config.speculation.max_draft) == (False, 7)
    assert (config.scheduler.max_running, config.scheduler.max_waiting) == (3, 4)
    assert (config.scheduler.step_tokens, config.scheduler.prefill_chunk) == (5, 6)
    assert config.kv.memory_bytes == 1 << 30
    assert (config.memory.budget_bytes, config.memory.when_full) == (2 << 30, "fail")
    assert config.access == AccessConfig(
        key_file="keys.json", allowed_hosts=("a.example",), allowed_origins=("https://b",)
    )
    (model,) = config.models
    assert (model.id, model.source) == (tiny_model.name, str(tiny_model))
    assert model.context_length == 64


def test_without_flags_the_only_model_is_served_with_defaults(
    served: list[Config], store_home: Path, tiny_gguf: Path
):
    store(store_home, tiny_gguf, "tiny")
    result = serve()
    assert served[0].models[0].id == "tiny"
    assert served[0].server == Config().server
    assert served[0].speculation == Config().speculation
    assert "http://127.0.0.1:8080/v1" in result.output
    assert "curl http://127.0.0.1:8080/v1/chat/completions" in result.output


def test_models_are_given_as_arguments_and_as_options(
    served: list[Config], store_home: Path, tiny_gguf: Path
):
    store(store_home, tiny_gguf, "one", "two", "three")
    serve("one", "--model", "two", "--model", "three")
    assert [model.id for model in served[0].models] == ["one", "two", "three"]


def test_flags_win_over_the_environment_and_the_file(
    served: list[Config], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "c.toml"
    file.write_text(
        f'[server]\nport = 1\nhost = "localhost"\n[[models]]\nid = "a"\nsource = "{tiny_model}"\n'
    )
    monkeypatch.setenv("MLXSPEC_PORT", "2")
    monkeypatch.setenv("MLXSPEC_HOST", "127.0.0.2")
    serve("--config", file, "--port", 3)
    assert (served[0].server.port, served[0].server.host) == (3, "127.0.0.2")
    assert [model.id for model in served[0].models] == ["a"]


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "mlxspec pull demo"), (["one", "two"], "one of: one, two")],
)
def test_without_a_clear_model_the_next_command_is_named(
    served: list[Config], store_home: Path, tiny_gguf: Path, names: list[str], said: str
):
    store(store_home, tiny_gguf, *names)
    result = serve()
    assert result.exit_code == 1
    assert said in result.stderr
    assert served == []


def test_a_draft_model_goes_with_its_model(served: list[Config], store_home: Path, tiny_gguf: Path):
    store(store_home, tiny_gguf, "one", "two")
    assert serve("one", "--draft-model", "two").exit_code == 0
    assert served[0].models[0].draft_model == str(store_home / "two")
    refused = serve("one", "two", "--draft-model", "two")
    assert refused.exit_code == 1
    assert "--draft-model for 2 models" in refused.stderr


def test_drafters_are_found_by_their_names(
    served: list[Config], store_home: Path, tiny_gguf: Path, tmp_path: Path
):
    store(store_home, tiny_gguf, "one", "two")
    file = tmp_path / "mlxspec.toml"
    tables = '[models.a]\nsource = "one"\ndraft_model = "quick"\n[drafters.quick]\nsource = "two"\n'
    file.write_text(tables)
    assert serve("--config", file).exit_code == 0
    assert served[0].models[0].draft_model == "quick"
    assert served[0].drafters["quick"].source == str(store_home / "two")


def test_a_draft_model_with_few_tokens_in_common_is_refused_at_start(
    served: list[Config], store_home: Path, tiny_gguf: Path, tiny_model: Path
):
    store(store_home, tiny_gguf, "one")
    path = tiny_model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {f"other {token}": at for token, at in vocab.items()}
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))
    result = serve("one", "--draft-model", tiny_model)
    assert result.exit_code == 1
    assert "tiny-model cannot draft for one: it has " in result.stderr
    assert served == []


def test_a_model_may_draft_for_itself(served: list[Config], store_home: Path, tiny_gguf: Path):
    store(store_home, tiny_gguf, "one")
    assert serve("one", "--draft-model", "auto").exit_code == 0
    assert served[0].models[0].draft_model == "auto"


def test_two_models_cannot_have_one_id(served: list[Config], store_home: Path, tiny_gguf: Path):
    store(store_home, tiny_gguf, "one")
    result = serve("one", "one")
    assert result.exit_code == 1
    assert "served as 'one'" in result.stderr


def test_an_absent_demo_is_pulled_first(
    served: list[Config], store_home: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        serve_verb, "_pull", lambda name: store(store_home, tiny_gguf, name), raising=True
    )
    assert serve("demo").exit_code == 0
    assert served[0].models[0].source == str(store_home / "demo")
    monkeypatch.setattr(serve_verb, "_pull", lambda _: pytest.fail("pulled again"))
    assert serve("demo").exit_code == 0


def test_a_demo_that_cannot_be_pulled_ends_the_command(
    served: list[Config], store_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    result = serve("demo")
    assert result.exit_code == 1
    assert "pulling it" in result.stdout
    assert "could not be pulled" in result.stderr
    assert served == []


def test_an_unusable_model_is_refused_before_the_server_starts(
    served: list[Config], tiny_model: Path
):
    (tiny_model / "model.safetensors").write_bytes(b"")
    result = serve(tiny_model)
    assert result.exit_code == 1
    assert "model.safetensors" in result.stderr
    assert served == []


def test_preparing_to_serve_does_not_import_mlx(store_home: Path, tiny_model: Path):
    import subprocess

    config = tiny_model / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"mistral"'))
    code = (
        "import sys, types; server = types.ModuleType('mlxspec.server')\n"
        "server.serve = lambda config: print('mlx.core' in sys.modules)\n"
        "sys.modules['mlxspec.server'] = server\n"
        f"from mlxspec.cli import cli; cli(['serve', {str(tiny_model)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_open_without_a_key_is_refused_before_anything_starts(
    served: list[Config], tiny_model: Path
):
    result = serve(tiny_model, "--host", "0.0.0.0")
    assert result.exit_code == 1
    assert "mlxspec key create" in result.stderr
    assert served == []


def test_keys_in_their_usual_file_are_asked_for(
    served: list[Config], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert CliRunner().invoke(cli, ["key", "create", "laptop"]).exit_code == 0
    result = serve(tiny_model, "--host", "0.0.0.0")
    assert served[0].access.key_file == str(tmp_path / "mlxspec" / "keys.json")
    assert "authorization: Bearer KEY" in result.output
