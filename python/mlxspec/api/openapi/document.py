"""The OpenAPI document of all routes, made from what stands beside their handlers."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from mlxspec import __version__
from mlxspec.api.error_form import ErrorForm
from mlxspec.api.errors import form_of_path
from mlxspec.api.openapi.operation import OPT, Operation

Json = dict[str, Any]


class Described(NamedTuple):
    """One method of one path, and what is said of it."""

    path: str
    method: str
    handler: HTTPRouteHandler
    operation: Operation
    errors: ErrorForm


def document(app: Litestar) -> Json:
    """OpenAPI 3.1 of every handler that is not marked `include_in_schema=False`."""
    described = sorted(_described(app), key=lambda it: (it.path, it.method))
    types = {id(type_): type_ for it in described for type_ in _types(it)}
    schemas, components = msgspec.json.schema_components(
        types.values(), ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(types, schemas, strict=True))
    paths: Json = {}
    for it in described:
        paths.setdefault(it.path, {})[it.method.lower()] = _operation(it, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlxspec", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _described(app: Litestar) -> Iterator[Described]:
    for route in app.routes:
        if not isinstance(route, HTTPRoute):
            continue
        for handler in route.route_handlers:
            if not handler.resolve_include_in_schema():
                continue
            for method in handler.http_methods - {"OPTIONS", "HEAD"}:
                path = route.path_format
                yield Described(path, method, handler, handler.opt[OPT], form_of_path(path))


def _types(it: Described) -> list[Any]:
    operation = it.operation
    types = [operation.body, *operation.answers, operation.events, it.errors.type]
    return [type_ for type_ in types if type_ is not None]


def _operation(it: Described, schemas: Mapping[int, Json]) -> Json:
    result: Json = {
        "operationId": _operation_id(it),
        "description": inspect.getdoc(it.handler.fn) or "",
        "tags": [_tag(it.path)],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", it.path)
        ],
        "responses": {
            "200": {"description": "the answer", "content": _answers(it.operation, schemas)},
            "default": {
                "description": "a refusal",
                "content": {"application/json": {"schema": schemas[id(it.errors.type)]}},
            },
        },
    }
    if it.operation.body is not None:
        content = {"application/json": {"schema": schemas[id(it.operation.body)]}}
        result["requestBody"] = {"required": True, "content": content}
    return result


def _answers(operation: Operation, schemas: Mapping[int, Json]) -> Json:
    """What a 200 may carry; the objects of a stream stand beside its content type."""
    content: Json = {}
    answers = [schemas[id(type_)] for type_ in operation.answers]
    if answers:
        content["application/json"] = {"schema": _any_of(answers)}
    if operation.text is not None:
        content[operation.text] = {"schema": {"type": "string"}}
    for framing in operation.framings:
        events = schemas[id(operation.events)]
        content[framing] = {"x-itemSchema": events}
    return content


def _any_of(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _operation_id(it: Described) -> str:
    words = re.findall(r"\w+", it.path)
    return "_".join([it.method.lower(), *words]) if words else f"{it.method.lower()}_root"


def _tag(path: str) -> str:
    """The dialect that a path belongs to."""
    if path.startswith("/v1/messages"):
        return "Anthropic"
    if path.startswith("/v1/"):
        return "OpenAI"
    return "Ollama" if path.startswith("/api/") or path == "/" else "llama.cpp and others"
