"""The command line as a client of a server: plain HTTP, with nothing but the standard library."""

import http.client
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from mlxspec.errors import ConfigError, ModelNotFoundError, UnavailableError

PROBE_SECONDS = 2.0
ANSWER_SECONDS = 600.0


class ServedModel(Struct, frozen=True):
    """A model of a server."""

    id: str
    context_length: int | None = None


class _ModelList(Struct, frozen=True):
    data: list[ServedModel]


class Client:
    """Talks to one server. A key is sent as a bearer token."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ConfigError(f"{url!r} is not a server's url: write it as http://127.0.0.1:8080")
        self._https = parts.scheme == "https"
        self._address = parts.netloc
        self._headers = {"content-type": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"

    def is_ready(self) -> bool:
        """Whether a server listens there and welcomes requests."""
        with closing(self._connect(PROBE_SECONDS)) as connection:
            try:
                connection.request("GET", "/health/ready", headers=self._headers)
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def model(self, wanted: str | None) -> ServedModel:
        """The wanted model, or the only one; raises where that is not one of the served."""
        body = b"".join(self._lines("GET", "/v1/models"))
        models = {model.id: model for model in msgspec.json.decode(body, type=_ModelList).data}
        names = ", ".join(models)
        if wanted is None and len(models) != 1:
            raise ConfigError(f"which model? {self.url} serves: {names}")
        found = models.get(wanted or names)
        if found is None:
            raise ModelNotFoundError(f"{self.url} does not serve {wanted!r}: use one of {names}")
        return found

    def metrics(self) -> str:
        """The server's metrics, as Prometheus text."""
        return b"".join(self._lines("GET", "/metrics")).decode()

    def get(self, path: str) -> Any:
        """The JSON that a GET answers; raises UnavailableError for a refusal."""
        return json.loads(b"".join(self._lines("GET", path)))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a POST of JSON answers; raises UnavailableError for a refusal."""
        return json.loads(b"".join(self._lines("POST", path, json.dumps(body))))

    def chat(self, body: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Chunks of a streamed chat; closing the generator ends the request.

        Raises UnavailableError for a refusal, and for a stream that broke.
        """
        wanted = {**body, "stream": True, "stream_format": "ndjson"}
        for line in self._lines("POST", "/v1/chat/completions", json.dumps(wanted)):
            chunk: dict[str, Any] = json.loads(line)
            if "error" in chunk:
                raise UnavailableError(chunk["error"]["message"])
            yield chunk

    def _lines(self, method: str, path: str, body: str | None = None) -> Iterator[bytes]:
        with closing(self._connect(ANSWER_SECONDS)) as connection:
            try:
                connection.request(method, path, body, self._headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise UnavailableError(_reason(response))
                yield from response
            except (OSError, http.client.HTTPException) as error:
                raise UnavailableError(
                    f"{self.url} does not answer ({type(error).__name__}): is the server running?"
                ) from None

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        return kind(self._address, timeout=seconds)


def _reason(response: http.client.HTTPResponse) -> str:
    """What a refusal says, or its status where it says nothing we know."""
    try:
        return str(json.loads(response.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status} {response.reason}"
