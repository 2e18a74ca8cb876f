"""JSON schemas, whatever the dialect that sends them, as grammars."""

import json
from typing import Any, Final

from mlxspec.engine.request import Grammar
from mlxspec.errors import BadRequestError

ANY_OBJECT: Final = {"type": "object"}


def json_grammar(schema: dict[str, Any] | str, param: str) -> Grammar:
    """The grammar of a schema, or of one as text; BadRequestError names the field."""
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"{param} is not JSON: {error}", param=param) from None
        if not isinstance(schema, dict):
            raise BadRequestError(f"{param} is not a schema: send an object", param=param)
    return Grammar(kind="json_schema", source=json.dumps(schema), param=param)
