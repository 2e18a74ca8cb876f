"""Which tools a reply must call one of, whatever the dialect."""

from mlxspec.engine.request import Tool
from mlxspec.errors import BadRequestError


def any_tool(tools: list[Tool]) -> tuple[str, ...]:
    """The names of all tools; BadRequestError if there are none."""
    if not tools:
        raise BadRequestError(
            "tool_choice asks for a call, but there are no tools: send tools of type function",
            param="tool_choice",
        )
    return tuple(tool["function"]["name"] for tool in tools)


def named_tool(tools: list[Tool], name: str | None) -> tuple[str, ...]:
    """The one name; BadRequestError if no tool has it."""
    if name is None or name not in any_tool(tools):
        known = ", ".join(any_tool(tools))
        raise BadRequestError(
            f"tool_choice names no tool that was sent: name one of {known}", param="tool_choice"
        )
    return (name,)
