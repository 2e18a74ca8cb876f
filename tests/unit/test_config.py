"""Configuration: what wins over what, and that every wrong key is named."""

import hashlib
from pathlib import Path

import pytest

from mlxspec.config import Config, cache_dir, parse_size, read_environment, resolve, set_defaults
from mlxspec.errors import ConfigError
from mlxspec.model_tables import ModelConfig  # fmt: skip


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mlxspec.toml"
    path.write_text(text)
    return path


def test_without_anything_the_defaults_stand():
    assert resolve({}, None, {}) == Config()


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path):
    file = toml(tmp_path, '[server]\nport = 1\nhost = "file"\nlog_level = "error"\n')
    environ = {"MLXSPEC_PORT": "2", "MLXSPEC_HOST": "environment"}
    server = resolve({"server": {"port": 3}}, file, environ).server
    assert (server.port, server.host, server.log_level) == (3, "environment", "error")
    assert server.drain_seconds == Config().server.drain_seconds


def test_the_environment_may_name_the_file(tmp_path: Path):
    file = toml(tmp_path, "[speculation]\nmax_draft = 9\n")
    assert resolve({}, None, {"MLXSPEC_CONFIG": str(file)}).speculation.max_draft == 9


def test_models_come_from_the_file(tmp_path: Path):
    file = toml(tmp_path, '[[models]]\nid = "a"\nsource = "b"\ncontext_length = 5\n')
    assert resolve({}, file, {}).models == (ModelConfig(id="a", source="b", context_length=5),)


def test_models_and_drafters_are_tables_by_their_names(tmp_path: Path):
    text = """
    [models.a]
    source = "b"
    draft_model = "quick"

    [models."owner/c"]
    source = "d"

    [drafters.quick]
    source = "e"
    """
    config = resolve({}, toml(tmp_path, text), {})
    assert [(model.id, model.source) for model in config.models] == [("a", "b"), ("owner/c", "d")]
    assert config.models[0].draft_model == "quick"
    assert config.drafters["quick"].source == "e"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[models.a]\nid = "b"\nsource = "c"', "remove it"),
        ('[models]\nsource = "c"', "write \\[models.source\\]"),
        ('[models.a]\nsource = "b"\naliases = ["c"]\n[models.c]\nsource = "d"', "called 'c'"),
        ('default_model = "x"\n[models.a]\nsource = "b"', "no model's name"),
        ('[models.a]\nsource = "b"\n[groups.a]\nmembers = ["a"]', "called 'a'"),
        (
            '[models.a]\nsource = "b"\n'
            '[groups.g]\nmembers = ["a"]\ndefault = "a"\nbalance = "prefix"',
            "remove one of them",
        ),
    ],
)
def test_names_that_are_wrong_are_refused_with_the_way_out(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        resolve({}, toml(tmp_path, text), {})


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("[serverr]\nport = 1", "server"),
        ("[server]\nprot = 1", "port"),
        ('[[models]]\nid = "a"\nsource = "b"\npined = true', "pinned"),
        ("[memory]\nwhenfull = 'wait'", "when_full"),
        ('[models.a]\nsorce = "b"', "source"),
        ('[drafters.a]\nsorce = "b"', "source"),
        ('[models.a]\nsource = "b"\ndraft_model = "quik"\n[drafters.quick]\nsource = "c"', "quick"),
        ('default_model = "bog"\n[models.big]\nsource = "b"', "big"),
        ('[models.big]\nsource = "b"\n[groups.g]\nmembers = ["bog"]', "big"),
        ('[models.big]\nsource = "b"\n[groups.g]\nmembers = ["big"]\ndefault = "bag"', "big"),
        (
            '[models.big]\nsource = "b"\n[groups.g]\nmembers = ["big"]\nmax_runing = 1',
            "max_running",
        ),
        ('[models.big]\nsource = "b"\nwieght = 2.0', "weight"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path, text: str, nearest: str):
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        resolve({}, toml(tmp_path, text), {})


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("MLXSPEC_PORT", "9000", {"server": {"port": 9000}}),
        ("MLXSPEC_DRAIN_SECONDS", "1.5", {"server": {"drain_seconds": 1.5}}),
        ("MLXSPEC_KV_MEMORY", "2GiB", {"kv": {"memory_bytes": 2 << 30}}),
        ("MLXSPEC_MEMORY", "1GiB", {"memory": {"budget_bytes": 1 << 30}}),
        ("MLXSPEC_SPECULATION", "false", {"speculation": {"enabled": False}}),
        ("MLXSPEC_STEP_TOKENS", "64", {"scheduler": {"step_tokens": 64}}),
    ],
)
def test_variables_are_read_in_the_type_of_their_key(variable: str, text: str, expected: dict):
    assert read_environment({variable: text, "PATH": "/bin"}) == expected


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"MLXSPEC_PROT": "1"}, "MLXSPEC_PROT is not a setting"),
        ({"MLXSPEC_PORT": "http"}, "MLXSPEC_PORT=http"),
        ({"MLXSPEC_PORT": "65536"}, "MLXSPEC_PORT=65536"),
        ({"MLXSPEC_KV_MEMORY": "lots"}, "MLXSPEC_KV_MEMORY=lots"),
        ({"MLXSPEC_MAX_DRAFT": "65"}, "MLXSPEC_MAX_DRAFT=65"),
    ],
)
def test_wrong_variables_are_named(environ: dict[str, str], said: str):
    with pytest.raises(ConfigError, match=said):
        resolve({}, None, environ)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1\n", "prot"),
        ("[server]\nport = 70000\n", "port"),
        ("[sever]\n", "sever"),
        ("server = 1\n", "server"),
        ("[server\n", "mlxspec.toml"),
    ],
)
def test_wrong_files_are_refused_by_key(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=said):
        resolve({}, toml(tmp_path, text), {})


def test_a_key_in_the_environment_is_hashed_and_never_shown():
    access = resolve({}, None, {"MLXSPEC_API_KEY": "a-long-enough-secret"}).access
    assert access.key_sha256 == hashlib.sha256(b"a-long-enough-secret").hexdigest()
    with pytest.raises(ConfigError, match="16 characters") as short:
        resolve({}, None, {"MLXSPEC_API_KEY": "too-short"})
    assert "too-short" not in str(short.value)


@pytest.mark.parametrize(
    "origin", ["example.org", "https://", "https://*.evil", "https://a*", "**"]
)
def test_an_origin_is_exact_or_a_whole_scheme(origin: str):
    with pytest.raises(ConfigError, match="allowed_origins"):
        resolve({"access": {"allowed_origins": [origin]}}, None, {})


def test_a_section_that_is_no_table_loses_to_one_that_is(tmp_path: Path):
    file = toml(tmp_path, "server = 1\n")
    assert resolve({"server": {"port": 4}}, file, {}).server.port == 4


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.toml"):
        resolve({}, tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1073741824", 1 << 30), ("4GiB", 4 << 30), ("4 gib", 4 << 30), ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29), ("4GB", 4_000_000_000), ("3KB", 3000), ("8B", 8), ("1TiB", 1 << 40),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str, num_bytes: int):
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", "4G", "4GiBs", "1e9", "0x10"])
def test_what_is_not_a_size_is_refused(text: str):
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


def test_a_configuration_travels_to_a_worker_and_back(monkeypatch: pytest.MonkeyPatch):
    config = Config(models=(ModelConfig(id="demo", source="/models/demo"),))
    for name, value in config.to_env().items():
        monkeypatch.setenv(name, value)
    assert Config.from_env() == config


def test_defaults_for_the_environment_leave_what_the_user_set():
    environ = {"A": "user"}
    assert set_defaults({"A": "ours", "B": "ours"}, environ) == {"A": "user", "B": "ours"}
    assert environ == {"A": "user", "B": "ours"}


def test_the_store_lies_where_the_user_says_else_in_the_cache_folder():
    assert cache_dir({"MLXSPEC_HOME": "/a"}) == Path("/a")
    assert cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/mlxspec")
    assert cache_dir({}) == Path.home() / ".cache" / "mlxspec"
