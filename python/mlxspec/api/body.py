"""Request bodies: read within bounds, decoded in one pass, refused with the field at fault."""

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from litestar.connection import Request
from litestar.exceptions import InternalServerException

from mlxspec.api.errors import ClientClosedError, SlowBodyError
from mlxspec.api.exchange import Exchange
from mlxspec.errors import BadRequestError

T = TypeVar("T")

_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_INNERMOST = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_MISSING = re.compile(r"missing required field `(?P<name>\w+)`")
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


async def read_json(request: Request[Any, Any, Any], decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type, whatever content type the client names.

    Raises BadRequestError, or what `read_body` raises.
    """
    body = await read_body(request)
    value = decode(body, decoder)
    check_depth(body, Exchange.of(request).limits.max_json_depth)
    return value


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The body's bytes; raises SlowBodyError, ClientClosedError, or Litestar's 413."""
    seconds = Exchange.of(request).limits.body_seconds
    try:
        async with asyncio.timeout(seconds):
            return await request.body()
    except TimeoutError:
        raise SlowBodyError(f"the body took longer than {seconds:g} s: send it faster") from None
    except InternalServerException:
        raise ClientClosedError("the client left before its body was read") from None


def check_depth(body: bytes, max_depth: int) -> None:
    """Refuse valid JSON whose lists and objects lie deeper in each other than `max_depth`.

    What a template or a grammar is made from must not be deeper than they can recurse.
    """
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(max_depth):
        brackets = _INNERMOST.sub(b"", brackets)
        if not brackets:
            return
    if brackets:
        raise BadRequestError(f"the body is nested deeper than {max_depth} levels: flatten it")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode JSON; BadRequestError names the field (`param`) where the schema is violated."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _violation(str(error)) from None
    except RecursionError:
        raise BadRequestError("the body is nested too deeply: flatten it") from None
    except UnicodeDecodeError:
        raise BadRequestError("the body is not valid UTF-8") from None
    except MemoryError:
        raise BadRequestError("the body needs more memory than there is: send less") from None
    except msgspec.DecodeError as error:
        raise BadRequestError(f"the body is not valid JSON: {_lower(str(error))}") from None


def _violation(text: str) -> BadRequestError:
    """Turn msgspec's sentence into ours: `messages[0].role: expected ...`."""
    at = _AT.search(text)
    path = at["path"] if at else ""
    sentence = _lower(_AT.sub("", text))
    if missing := _MISSING.search(text):
        path = f"{path}.{missing['name']}".lstrip(".")
    return BadRequestError(f"{path}: {sentence}" if path else sentence, param=path or None)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
