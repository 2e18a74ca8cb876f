"""A tool call's arguments where a dialect wants an object and not text."""

from typing import Any

import msgspec
from msgspec import Raw

from mlxspec.api.stream import encode
from mlxspec.engine.request import ToolCall


def tool_input(call: ToolCall) -> Raw:
    """The arguments as JSON of an object; what a model wrote that is none stands in a field."""
    try:
        msgspec.json.decode(call.arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return Raw(encode({"arguments": call.arguments}))
    return Raw(call.arguments.encode())
