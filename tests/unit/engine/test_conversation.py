"""Messages are put in words that templates know."""

from collections.abc import Mapping
from typing import Any

import pytest

from mlxspec.engine.chat_template import ChatTemplate
from mlxspec.engine.conversation import Conversation
from mlxspec.engine.request import ChatOptions, Message
from mlxspec.errors import BadRequestError

USER: Message = {"role": "user", "content": "hi"}


class Recorder:
    """A template that remembers what it was given."""

    def __call__(
        self, messages: list[Message], tools: list[Any], options: Mapping[str, Any]
    ) -> str:
        self.messages, self.tools, self.options = messages, tools, dict(options)
        return "prompt"


def conversation(render: Any, **facts: bool) -> Conversation:
    known = {"thinks": False, "knows_developer": False, "knows_tools": True, **facts}
    return Conversation(render, **{"parse_arguments": True, **known})


def test_arguments_become_objects_and_broken_ones_stay_text() -> None:
    recorder = Recorder()
    calls = [
        {"id": at, "type": "function", "function": {"name": "f", "arguments": text}}
        for at, text in enumerate(['{"a": 1}', "", "{broken"])
    ]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    conversation(recorder).render([USER, message], ChatOptions())
    seen = [call["function"]["arguments"] for call in recorder.messages[1]["tool_calls"]]
    assert seen == [{"a": 1}, {}, "{broken"]
    assert calls[0]["function"] == {"name": "f", "arguments": '{"a": 1}'}, "the request's own"


@pytest.mark.parametrize(("known", "role"), [(False, "system"), (True, "developer")])
def test_developers_speak_as_the_system_where_the_template_knows_none(
    known: bool, role: str
) -> None:
    recorder = Recorder()
    message = {"role": "developer", "content": "x"}
    conversation(recorder, knows_developer=known).render([message], ChatOptions())
    assert recorder.messages[0]["role"] == role


@pytest.mark.parametrize("thinks", [True, False])
def test_thinking_is_on_where_the_model_thinks(thinks: bool) -> None:
    recorder = Recorder()
    conversation(recorder, thinks=thinks).render([USER], ChatOptions())
    assert recorder.options == {"enable_thinking": thinks, "add_generation_prompt": True}


@pytest.mark.parametrize("name", ["enable_thinking", "thinking"])
def test_a_wish_about_thinking_goes_by_all_its_names(name: str) -> None:
    recorder = Recorder()
    options = ChatOptions(template_kwargs={name: False, "add_generation_prompt": False})
    conversation(recorder, thinks=True).render([USER], options)
    assert recorder.options["enable_thinking"] is False
    assert recorder.options["thinking"] is False
    assert recorder.options["add_generation_prompt"] is True


CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_message_to_continue_is_left_open() -> None:
    render = ChatTemplate(CHATML, {}).render
    messages = [USER, {"role": "assistant", "content": "The answer"}]
    chat = ChatOptions(continue_final_message=True)
    assert conversation(render).render(messages, chat) == "<user>hi</><assistant>The answer"
    assert conversation(render).render([USER], ChatOptions()) == "<user>hi</><assistant>"


def test_a_template_that_drops_the_message_cannot_continue_it() -> None:
    render = ChatTemplate("nothing", {}).render
    with pytest.raises(BadRequestError, match="cannot be continued"):
        conversation(render).render([USER], ChatOptions(continue_final_message=True))


def test_system_messages_at_the_head_become_one() -> None:
    recorder = Recorder()
    messages = [
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        USER,
        {"role": "system", "content": "c"},
    ]
    conversation(recorder).render(messages, ChatOptions())
    assert recorder.messages == [
        {"role": "system", "content": "a\n\nb"},
        USER,
        {"role": "system", "content": "c"},
    ]


def test_a_model_without_words_for_tools_is_told_of_them_where_it_must_call() -> None:
    tool = {"type": "function", "function": {"name": "find_city"}}
    recorder = Recorder()
    for must_call, heads in (((), ["user"]), (("find_city",), ["system", "user"])):
        options = ChatOptions(tools=[tool], must_call=must_call)
        conversation(recorder, knows_tools=False).render([USER], options)
        assert [message["role"] for message in recorder.messages] == heads
    assert "find_city" in recorder.messages[0]["content"]
    system = {"role": "system", "content": "Be brief."}
    conversation(recorder, knows_tools=False).render([system, USER], options)
    assert recorder.messages[0]["content"].endswith("Be brief."), "one system message"
