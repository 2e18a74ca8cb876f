"""Chat templates render as Hugging Face's renderer does it, and cannot run away."""

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mlxspec.engine.chat_template import ChatTemplate
from mlxspec.errors import BadRequestError

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a <city>, é",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"id": "abc", "type": "function", "function": {"name": "weather", "arguments": {"n": 1}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be <good>"},
    {"role": "user", "content": "  hi & 'bye'\n"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"t": 1}', "name": "weather"},
]
TEMPLATES = {
    "whitespace": """
{%- for message in messages %}
    {%- if loop.first -%}
first {% else %}
    then {{ message.content | trim }}
    {% endif %}
{% endfor %}
end
""",
    "generation": """
{% for message in messages %}
{{ message.role }}
{%- generation -%}
  {{ message.content }}
{% endgeneration %}

{% endfor %}""",
    "tools": """
{%- if tools is iterable and tools | length > 0 %}{{ tools | tojson }}|
{{- tools | tojson(indent=2) }}{% endif %}
{%- if tools is not none %}known{% endif %}
{%- for message in messages if message.tool_calls is defined %}
{%- for call in message.tool_calls %}{{ call.function.name }}
{%- for key, value in call.function.arguments.items() %} {{ key }}={{ value | tojson }}{% endfor %}
{%- endfor %}{% endfor %}""",
    "state": """
{%- set ns = namespace(count=0, last='') %}
{%- for message in messages %}
{%- set ns.count = ns.count + 1 %}
{%- if message.role == 'tool' %}{% break %}{% endif %}
{%- set ns.last = message['role'] %}
{%- endfor %}{{ ns.count }} {{ ns.last }} {{ messages[::-1][0].role }}
{{- messages[-1]['role'].upper() }}""",
    "python": """
{%- set text = messages[1].content %}
{{- text.strip() }}|{{ text.split('&')[-1].lstrip() }}|{{ text.startswith('  ') }}|
{{- messages[0].get('name') }}|{{ 'content' in messages[0] }}|{{ messages[0].content[3:] }}""",
    "macro": """
{%- macro show(message, depth=1) %}{{ message.role }}{{ depth }}{% endmacro %}
{%- for message in messages %}{{ show(message, depth=loop.index0) }},{% endfor %}
{{- bos_token }}{{ undefined_thing }}
{%- if enable_thinking is defined and not enable_thinking %}no{% endif %}""",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [[], [TOOL]])
@pytest.mark.parametrize("options", [{}, {"enable_thinking": False}])
def test_a_template_renders_as_at_hugging_face(
    name: str, tools: list[dict[str, Any]], options: dict[str, Any]
) -> None:
    source = TEMPLATES[name]
    [expected], _ = render_jinja_template(
        [MESSAGES],
        tools=tools or None,
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<s>",
        **options,
    )
    template = ChatTemplate(source, {"bos_token": "<s>"})
    rendered = template.render(MESSAGES, tools, {"add_generation_prompt": True, **options})
    assert rendered == expected
    assert rendered.strip()


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}"
        "{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10000000000) | list | length }}",
    ],
)
def test_a_runaway_template_is_stopped(source: str) -> None:
    with pytest.raises(BadRequestError, match="refuses these messages"):
        ChatTemplate(source, {}).render(MESSAGES, [], {})


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__ }}", "{{ messages.__class__ }}", "{{ tojson.__globals__ }}"]
)
def test_a_template_reaches_no_python_object(source: str) -> None:
    try:
        rendered = ChatTemplate(source, {}).render(MESSAGES, [], {})
    except BadRequestError:
        return
    assert rendered == ""


def test_what_the_template_refuses_is_the_clients_fault() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(BadRequestError, match="roles must alternate") as refusal:
        template.render(MESSAGES, [], {})
    assert refusal.value.param == "messages"


def test_a_template_that_cannot_be_parsed_says_so() -> None:
    with pytest.raises(ValueError, match="default"):
        ChatTemplate("{% if %}", {})


def test_clients_variables_do_not_replace_the_conversation_or_special_tokens() -> None:
    template = ChatTemplate("{{ messages | length }}{{ bos_token }}{{ tools }}", {"bos_token": "B"})
    options = {"messages": [], "bos_token": "x", "tools": "y"}
    assert template.render(MESSAGES, [], options) == "4BNone"


def test_a_models_template_for_tools_is_used_with_tools_only() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})
    assert template.render(MESSAGES, [], {}) == "plain"
    assert template.render(MESSAGES, [TOOL], {}) == "tools"
