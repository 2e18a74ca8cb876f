"""Grammars of calls take what mlx-lm's parsers read, and nothing else."""

import asyncio
import importlib
import json
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlxspec.engine.call_shape import call_shape
from mlxspec.engine.grammar import GrammarCompiler
from mlxspec.engine.reply_grammar import ReplyGrammar
from mlxspec.engine.request import ChatOptions, GenerationRequest, Grammar
from mlxspec.errors import BadRequestError

SPECIAL = (
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<think>",
)
PLAIN = ("<tool_call>", "</tool_call>", "</think>")
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "days": {"type": "integer", "$ref": "#/$defs/count"},
    },
    "required": ["city"],
    "$defs": {"count": {"type": "integer", "minimum": 0}},
}


def tool(name: str, strict: bool = False, parameters: Any = PARAMETERS) -> dict[str, Any]:
    function = {"name": name, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": function}


def tokenizer() -> Tokenizer:
    """Over bytes, with the markers of several models."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(text, special=False) for text in PLAIN])
    made.add_special_tokens([AddedToken(text, special=True) for text in (*SPECIAL, "</s>")])
    return made


def added(made: Tokenizer) -> dict[str, int]:
    return {token.content: at for at, token in made.get_added_tokens_decoder().items()}


class Judge:
    """Says of texts whether a model's replies may be them."""

    def __init__(self, parser: str | None, thinks: bool = False) -> None:
        self.tokenizer = tokenizer()
        known = added(self.tokenizer)
        module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}") if parser else None
        marker = module.tool_call_start if module else None
        think = ("<think>", "</think>") if thinks else None
        self.grammars = ReplyGrammar(call_shape(parser, known), marker, think, known)

    def grammar(self, thinking: bool = False, **fields: Any) -> Grammar | None:
        form = fields.pop("grammar", None)
        request = GenerationRequest(
            model="m", prompt=[{}], chat=ChatOptions(**fields), grammar=form
        )
        return self.grammars.of(request, thinking=thinking)

    def takes(self, text: str, thinking: bool = False, **fields: Any) -> bool:
        grammar = self.grammar(thinking, **fields)
        assert grammar is not None
        size = self.tokenizer.get_vocab_size()
        end = added(self.tokenizer)["</s>"]
        compiler = GrammarCompiler(self.tokenizer, size, [end])
        matcher = asyncio.run(compiler.compile(grammar)).matcher
        tokens = self.tokenizer.encode(text).ids
        assert matcher.validate_tokens([]) == 0
        if matcher.validate_tokens(tokens) < len(tokens):
            return False
        matcher.consume_tokens(tokens)
        return bool(matcher.is_accepting())


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


XML = ("<parameter=", ">\n", "\n</parameter>\n")
GLM = ("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
CAT = ("<longcat_arg_key>", "</longcat_arg_key>\n<longcat_arg_value>", "</longcat_arg_value>\n")
MAX = ('<parameter name="', '">', "</parameter>\n")


def tags(tag: tuple[str, str, str], arguments: dict[str, Any]) -> str:
    return "".join(
        f"{tag[0]}{name}{tag[1]}{value if isinstance(value, str) else as_json(value)}{tag[2]}"
        for name, value in arguments.items()
    )


WRITERS: dict[str, Any] = {
    "json_tools": lambda name, arguments: (
        f'<tool_call>\n{{"name": "{name}", "arguments": {as_json(arguments)}}}\n</tool_call>'
    ),
    "mistral": lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{as_json(arguments)}",
    "kimi_k2": lambda name, arguments: (
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0"
        f"<|tool_call_argument_begin|>{as_json(arguments)}<|tool_call_end|>"
        "<|tool_calls_section_end|>"
    ),
    "qwen3_coder": lambda name, arguments: (
        f"<tool_call>\n<function={name}>\n{tags(XML, arguments)}</function>\n</tool_call>"
    ),
    "glm47": lambda name, arguments: f"<tool_call>{name}\n{tags(GLM, arguments)}</tool_call>",
    "longcat": lambda name, arguments: (
        f"<longcat_tool_call>{name}\n{tags(CAT, arguments)}</longcat_tool_call>"
    ),
    "minimax_m2": lambda name, arguments: (
        f'<minimax:tool_call>\n<invoke name="{name}">\n{tags(MAX, arguments)}</invoke>\n'
        "</minimax:tool_call>"
    ),
}
GOOD = {"city": "A <b> é", "unit": "C", "days": 3}


def read(parser: str, text: str, tools: list[Any]) -> Any:
    """As the server reads it: the parser sees what stands between the markers."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{parser}")
    inner = text.removeprefix(module.tool_call_start).removesuffix(module.tool_call_end)
    parsed = module.parse_tool_call(inner, tools)
    return parsed[0] if isinstance(parsed, list) else parsed


@pytest.mark.parametrize("parser", WRITERS)
def test_a_forced_call_is_one_that_the_parser_reads(parser: str) -> None:
    judge, write, tools = Judge(parser), WRITERS[parser], [tool("find"), tool("other")]
    must = {"tools": tools, "must_call": ("find",)}
    for arguments in (GOOD, {"city": "Rome"}):
        text = write("find", arguments)
        assert judge.takes(text, **must)
        call = read(parser, text, tools)
        assert call["name"] == "find"
        assert call["arguments"] == arguments
    for wrong in ({**GOOD, "unit": "K"}, {**GOOD, "days": "x"}, {"unit": "C"}):
        assert not judge.takes(write("find", wrong), **must), wrong
    assert not judge.takes(write("other", GOOD), **must)
    assert not judge.takes("I would rather talk.", **must)
    assert not judge.takes(write("find", GOOD) + " and so on", **must)


@pytest.mark.parametrize("parser", WRITERS)
def test_strict_tools_are_kept_to_and_text_stays_free(parser: str) -> None:
    judge, write = Judge(parser), WRITERS[parser]
    may = {"tools": [tool("find", strict=True), tool("other")]}
    assert judge.takes("No call <at> all.", **may)
    assert judge.takes("Well. " + write("find", GOOD), **may)
    assert judge.takes(write("other", GOOD), **may)
    assert not judge.takes(write("find", {**GOOD, "days": "x"}), **may)
    assert not judge.takes(write("unknown", GOOD), **may)


def test_tools_that_are_not_strict_leave_the_model_free() -> None:
    assert Judge("json_tools").grammar(tools=[tool("find")]) is None


def test_several_calls_follow_each_other_unless_one_is_wanted() -> None:
    judge, write = Judge("json_tools"), WRITERS["json_tools"]
    two = write("f", {"city": "a"}) + "\n" + write("f", {"city": "b"})
    must: dict[str, Any] = {"tools": [tool("f")], "must_call": ("f",)}
    assert judge.takes(two, **must)
    assert not judge.takes(two, **must, parallel_tool_calls=False)


def test_reasoning_comes_before_what_is_forced() -> None:
    judge, write = Judge("json_tools", thinks=True), WRITERS["json_tools"]
    must: dict[str, Any] = {"tools": [tool("f")], "must_call": ("f",)}
    call = write("f", {"city": "a"})
    assert judge.takes(f"Hm.</think>\n\n{call}", thinking=True, **must)
    assert not judge.takes(call, thinking=True, **must), "it is still reasoning"
    assert judge.takes(f"<think>Hm.</think>{call}", **must)
    assert judge.takes(call, **must)
    form = Grammar(kind="json_schema", source=as_json({"type": "integer"}), param="format")
    assert judge.takes("Hm.</think>\n12", thinking=True, grammar=form)
    assert not judge.takes("Hm.</think>\ntwelve", thinking=True, grammar=form)


def test_an_answer_of_a_form_leaves_room_for_calls() -> None:
    judge, write = Judge("json_tools"), WRITERS["json_tools"]
    form = Grammar(kind="json_schema", source=as_json({"type": "integer"}), param="format")
    asked: dict[str, Any] = {"tools": [tool("f")], "grammar": form}
    assert judge.takes("12", **asked)
    assert judge.takes(write("f", {"city": "a"}), **asked)
    assert not judge.takes("Hello", **asked)
    assert Judge(None).grammar(**asked) == form, "a model that was taught no calls makes none"


@pytest.mark.parametrize("parser", ["pythonic", "gemma4"])
def test_a_form_without_a_grammar_is_named_with_the_way_out(parser: str) -> None:
    judge = Judge(parser)
    for fields in (
        {"tools": [tool("f")], "must_call": ("f",)},
        {"tools": [tool("f", strict=True)]},
    ):
        with pytest.raises(BadRequestError, match="send tool_choice auto"):
            judge.grammar(**fields)


def test_what_a_grammar_cannot_say_is_left_out_unless_the_tool_is_strict() -> None:
    odd = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}, "required": ["a"]}
    judge, text = Judge("json_tools"), WRITERS["json_tools"]("f", {"a": 1})
    assert judge.takes(text, tools=[tool("f", parameters=odd)], must_call=("f",))
    with pytest.raises(BadRequestError):
        judge.takes(text, tools=[tool("f", True, odd)], must_call=("f",))


def test_a_schema_without_a_bottom_is_refused() -> None:
    deep: dict[str, Any] = {"type": "null"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    with pytest.raises(BadRequestError, match="nested deeper"):
        Judge("json_tools").grammar(tools=[tool("f", parameters=deep)], must_call=("f",))
