"""Where the server listens: a free port, and never in the open without a key."""

import socket
from pathlib import Path

import msgspec

from mlxspec.api.access.hosts import is_loopback
from mlxspec.config import Config
from mlxspec.errors import ConfigError


def url_of(config: Config) -> str:
    """The url that the server answers at."""
    scheme = "https" if config.server.tls_cert else "http"
    return f"{scheme}://{_address(config)}"


def check_exposure(config: Config) -> None:
    """Refuse to be reached from other machines without a key, and half of a TLS pair."""
    if not config.access.wants_key and not is_loopback(config.server.host):
        raise ConfigError(
            f"{config.server.host} can be reached from other machines and no API key is set: "
            "make one with 'mlxspec key create', set MLXSPEC_API_KEY, or listen on 127.0.0.1"
        )
    pair = (config.server.tls_cert, config.server.tls_key)
    if None in pair and pair != (None, None):
        raise ConfigError("TLS needs a certificate and its key: give both tls_cert and tls_key")
    for name in pair:
        if name is not None and not Path(name).is_file():
            raise ConfigError(f"there is no TLS file {name}")


def with_port(config: Config) -> Config:
    """Check that the address is free, and choose a port where 0 asks for any.

    Granian binds with SO_REUSEPORT on Linux and would share a taken port without a word.
    """
    family = socket.AF_INET6 if ":" in config.server.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.server.host, config.server.port))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {_address(config)}: {error.strerror}: choose another port"
            ) from None
        server = msgspec.structs.replace(config.server, port=probe.getsockname()[1])
    return msgspec.structs.replace(config, server=server)


def _address(config: Config) -> str:
    host = config.server.host
    return f"[{host}]:{config.server.port}" if ":" in host else f"{host}:{config.server.port}"
