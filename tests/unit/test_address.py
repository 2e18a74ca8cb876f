"""Where the server may listen."""

from pathlib import Path

import pytest

from mlxspec.address import check_exposure, url_of
from mlxspec.config import AccessConfig, Config, ServerConfig
from mlxspec.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    check_exposure(Config(server=ServerConfig(host=host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "no-such-host.invalid"])
def test_the_open_needs_a_key(host: str) -> None:
    server = ServerConfig(host=host)
    with pytest.raises(ConfigError, match="mlxspec key create"):
        check_exposure(Config(server=server))
    check_exposure(Config(server=server, access=AccessConfig(key_file="keys.json")))


def test_tls_needs_both_files(tmp_path: Path) -> None:
    cert = tmp_path / "cert.pem"
    cert.touch()
    for server in (ServerConfig(tls_cert=str(cert)), ServerConfig(tls_key=str(cert))):
        with pytest.raises(ConfigError, match="both"):
            check_exposure(Config(server=server))
    pair = ServerConfig(tls_cert=str(cert), tls_key=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        check_exposure(Config(server=pair))
    good = Config(server=ServerConfig(tls_cert=str(cert), tls_key=str(cert), port=1))
    check_exposure(good)
    assert url_of(good) == "https://127.0.0.1:1"
