"""How models write tool calls, by the names of mlx-lm's parsers, which read them."""

from collections.abc import Container
from typing import Final, NamedTuple


class Tag(NamedTuple):
    """One argument outside JSON: `before` name `behind` value `end`; strings stand unquoted."""

    before: str
    behind: str
    end: str


class CallShape(NamedTuple):
    """`opening`, calls with `between` them, `closing`; a call is `before` name `behind` arguments
    `end`.

    The arguments are one JSON object, or a `tag` each. `numbered`: a colon and the call's number
    follow the name.
    """

    before: str
    behind: str
    end: str = ""
    between: str = ""
    opening: str = ""
    closing: str = ""
    numbered: bool = False
    tag: Tag | None = None


JSON: Final = "json_tools"
"""The shape for models that have none of their own."""

SHAPES: Final = {
    JSON: CallShape('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n"),
    "mistral": CallShape("[TOOL_CALLS]", "[ARGS]"),
    "kimi_k2": CallShape(
        "<|tool_call_begin|>functions.",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        opening="<|tool_calls_section_begin|>",
        closing="<|tool_calls_section_end|>",
        numbered=True,
    ),
    "qwen3_coder": CallShape(
        "<tool_call>\n<function=",
        ">\n",
        "</function>\n</tool_call>",
        "\n",
        tag=Tag("<parameter=", ">\n", "\n</parameter>\n"),
    ),
    "glm47": CallShape(
        "<tool_call>",
        "\n",
        "</tool_call>",
        "\n",
        tag=Tag("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    "longcat": CallShape(
        "<longcat_tool_call>",
        "\n",
        "</longcat_tool_call>",
        "\n",
        tag=Tag(
            "<longcat_arg_key>",
            "</longcat_arg_key>\n<longcat_arg_value>",
            "</longcat_arg_value>\n",
        ),
    ),
    "minimax_m2": CallShape(
        '<invoke name="',
        '">\n',
        "</invoke>\n",
        opening="<minimax:tool_call>\n",
        closing="</minimax:tool_call>",
        tag=Tag('<parameter name="', '">', "</parameter>\n"),
    ),
}
SHAPES["laguna"] = SHAPES["glm47"]

MISTRAL_LIST: Final = CallShape(
    '{"name": "', '", "arguments": ', "}", ", ", opening="[TOOL_CALLS][", closing="]"
)
"""Of Mistral's models before they had an `[ARGS]` token."""


def call_shape(parser: str | None, vocabulary: Container[str]) -> CallShape | None:
    """The shape that a model was taught; None where a grammar cannot spell it."""
    if parser == "mistral" and "[ARGS]" not in vocabulary:
        return MISTRAL_LIST
    return SHAPES.get(parser or JSON)
