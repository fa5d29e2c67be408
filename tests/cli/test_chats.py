"""Chats: what is learned, and keys that are encoded or refused but never ignored."""

import re

import pytest

from tinkex_sync.cli.chats import check_chat, encode_chat, encode_chat_prompt, parse_chat
from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

EOS = ByteTokenizer.eos_token_id
USER = {"role": "user", "content": "Hi"}
#: Templates with the properties of those on the hub.
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS = (
    "{% for t in tools or [] %}[{{ t | tojson }}]{% endfor %}"
    "{% for m in messages %}{% if m.role in ['user', 'assistant', 'tool'] %}<{{ m.role }}>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}({{ c.function.name }}{{ c.function.arguments | tojson }}){% endfor %}"
    "</>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
RAW_ARGUMENTS = TOOLS.replace("c.function.arguments | tojson", "c.function.arguments")
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GENERATION = """\
{% for m in messages %}
    {%- if m.role == 'assistant' %}
<assistant>
    {%- generation -%}
    {{ m.content }}
    {%- endgeneration -%}
</>
    {%- else -%}
<{{ m.role }}>{{ m.content }}</>
    {%- endif %}
{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
THOUGHTS = (
    "{% for m in messages %}<{{ m.role }}>{% if loop.last and m.thought %}({{ m.thought }}){% endif %}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


class JinjaTokenizer(ByteTokenizer):
    """A tokenizer with a chat template, in which generation tags have no effect."""

    def __init__(self, template):
        self.chat_template = template

    def apply_chat_template(self, messages, tools=None, chat_template=None, *, tokenize, add_generation_prompt):
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        assert not tokenize
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
        source = chat_template or self.chat_template
        if isinstance(source, list):
            source = source[0]["template"]
        source = re.sub(r"endgeneration( ?-?%)", r"endif\1", source)
        source = re.sub(r"generation( ?-?%)", r"if true\1", source)
        return environment.from_string(source).render(
            messages=messages, tools=tools, add_generation_prompt=add_generation_prompt
        )


def text_of(parts):
    return "".join("|" if token == EOS else chr(token) for tokens, _ in parts for token in tokens)


def learned(parts):
    """Return the texts that are learned, with their weights."""
    return [(text_of([part]), part[1]) for part in parts if part[1]]


def chat(*messages, **keys):
    return parse_chat({"messages": [*messages], **keys})


def assistant(content, **keys):
    return {"role": "assistant", "content": content, **keys}


@pytest.mark.parametrize("template", [None, PLAIN, GENERATION])
@pytest.mark.parametrize(
    ("first", "weights"),
    [
        ({}, [1.0, 1.0]),
        ({"weight": 0}, [1.0]),
        ({"trainable": False}, [1.0]),
        ({"weight": 0.5, "trainable": True}, [0.5, 1.0]),
        ({"weight": None}, [1.0, 1.0]),
    ],
)
def test_a_response_is_learned_with_its_weight(template, first, weights):
    tokenizer = ByteTokenizer() if template is None else JinjaTokenizer(template)
    [parts] = encode_chat(chat(USER, assistant("one", **first), USER, assistant("two")), tokenizer)
    assert [weight for _, weight in learned(parts)] == weights
    texts = [text for text, _ in learned(parts)]
    assert "two" in texts[-1]
    assert ("one" in "".join(texts)) == (len(weights) == 2)
    assert "one" in text_of(parts), "a response that is not learned is read"


def test_weights_do_not_change_the_tokens():
    for template in (None, PLAIN, GENERATION):
        tokenizer = ByteTokenizer() if template is None else JinjaTokenizer(template)
        [plain] = encode_chat(chat(USER, assistant("one"), USER, assistant("two")), tokenizer)
        [weighted] = encode_chat(chat(USER, assistant("one", weight=0), USER, assistant("two")), tokenizer)
        assert text_of(plain) == text_of(weighted)


@pytest.mark.parametrize("template", [None, PLAIN, TOOLS, GENERATION])
def test_the_prompt_for_a_response_is_the_text_before_the_learned_response(template):
    tokenizer = ByteTokenizer() if template is None else JinjaTokenizer(template)
    [parts] = encode_chat(chat(USER, assistant("Oh")), tokenizer)
    prompt = encode_chat_prompt(chat(USER), tokenizer)
    text = text_of(parts)
    assert text.startswith(text_of([(prompt, 0)]))
    assert text[len(prompt) :].startswith(learned(parts)[0][0])


def test_generation_tags_decide_what_is_learned():
    [parts] = encode_chat(chat(USER, assistant("one"), USER, assistant("two", weight=0.5)), JinjaTokenizer(GENERATION))
    assert "".join(text_of(parts).split()) == "<user>Hi</><assistant>one</><user>Hi</><assistant>two</>"
    assert learned(parts) == [("one", 1.0), ("two", 0.5)]


def test_marks_of_generation_tags_keep_the_whitespace_of_the_template():
    tokenizer, messages = JinjaTokenizer(GENERATION), [USER, assistant("one"), USER, assistant("two")]
    [parts] = encode_chat(chat(*messages), tokenizer)
    assert text_of(parts) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)


def test_a_template_that_removes_thoughts_gives_one_example_per_learned_response():
    tokenizer = JinjaTokenizer(THOUGHTS)
    messages = [USER, assistant("one", thought="hm"), USER, assistant("two", thought="ah")]
    examples = encode_chat(chat(*messages), tokenizer)
    assert [learned(parts) for parts in examples] == [[("one", 1.0)], [("two", 1.0)]]
    assert [text_of(parts) for parts in examples] == [
        "<user>Hi</><assistant>(hm)one</>",
        "<user>Hi</><assistant>one</><user>Hi</><assistant>(ah)two</>",
    ]
    messages[1]["weight"] = 0
    assert [learned(parts) for parts in encode_chat(chat(*messages), tokenizer)] == [[("two", 1.0)]]


def test_blocks_that_cannot_be_assigned_to_messages_are_refused():
    twice = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    [parts] = encode_chat(chat(USER, assistant("a"), assistant("b")), JinjaTokenizer(twice))
    assert learned(parts) == [("Hi", 1.0), ("a", 1.0), ("b", 1.0)]
    with pytest.raises(ValueError, match="marks 3 texts for 2 assistant messages"):
        encode_chat(chat(USER, assistant("a", weight=0.5), assistant("b")), JinjaTokenizer(twice))
    none = "{{ messages[0].content }}{% if false %}{% generation %}{% endgeneration %}{% endif %}"
    with pytest.raises(ValueError, match="marks no text"):
        encode_chat(chat(USER, assistant("a")), JinjaTokenizer(none))


CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "2", "tool_call_id": "x", "name": "add"}


@pytest.mark.parametrize("template", [TOOLS, RAW_ARGUMENTS])
@pytest.mark.parametrize("arguments", ['{"a": 1}', "{}"])
def test_tool_calls_are_encoded_with_arguments_in_the_form_that_the_template_expects(template, arguments):
    call = {"function": {"name": "add", "arguments": arguments}}
    calling = {"role": "assistant", "tool_calls": [call]}
    tokenizer = JinjaTokenizer(template)
    [parts] = encode_chat(chat(USER, calling, RESULT, assistant("two"), tools=[{"name": "add"}]), tokenizer)
    assert f"<assistant>(add{arguments})</><tool>2</>" in text_of(parts)
    assert call["function"]["arguments"] == arguments, "the caller's data is unchanged"


def test_arguments_that_are_not_json_are_refused_where_the_template_expects_an_object():
    call = {"function": {"name": "add", "arguments": '{"a"'}}
    messages = [USER, {"role": "assistant", "tool_calls": [call]}]
    with pytest.raises(ValueError, match=r'"messages"\[1\]\["tool_calls"\]: the arguments .* are not JSON'):
        encode_chat(chat(*messages), JinjaTokenizer(TOOLS))


REFUSED = [
    ([CALLING], PLAIN, r'the chat template does not write "messages"\[0\]\["tool_calls"\]'),
    ([CALLING], None, r'"messages"\[0\]\["tool_calls"\] needs a chat template'),
    ([assistant("a", reasoning_content="hm")], PLAIN, r'"messages"\[0\]\["reasoning_content"\]'),
    ([{**USER, "name": "Ann"}, assistant("a")], TOOLS, r'"messages"\[0\]\["name"\]'),
    ([{"role": "developer", "content": "x"}, assistant("a")], TOOLS, r'"messages"\[0\], whose role is "developer"'),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}]}, assistant("a")], None, "the parts of"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}]}, assistant("a")], PLAIN, "the parts of"),
]


@pytest.mark.parametrize(("messages", "template", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_a_key_that_the_template_does_not_write_is_refused(messages, template, reason):
    tokenizer = ByteTokenizer() if template is None else JinjaTokenizer(template)
    for encode in (encode_chat, encode_chat_prompt, check_chat):
        with pytest.raises(ValueError, match=reason):
            encode(chat(*messages), tokenizer)


def test_tools_that_the_template_does_not_write_are_refused():
    with pytest.raises(ValueError, match='the chat template does not write "tools"'):
        encode_chat(chat(USER, assistant("a"), tools=[{"name": "add"}]), JinjaTokenizer(PLAIN))
    encode_chat(chat(USER, assistant("a"), tools=[]), JinjaTokenizer(PLAIN))


def test_content_parts_are_encoded_by_a_template_that_supports_them():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    [example] = encode_chat(chat({"role": "user", "content": parts}, assistant("a")), JinjaTokenizer(PARTS))
    assert text_of(example) == "<user>Hello</><assistant>a</>"


def test_named_templates_are_chosen_as_by_the_tokenizer():
    tokenizer = JinjaTokenizer([{"name": "default", "template": GENERATION}])
    [parts] = encode_chat(chat(USER, assistant("one")), tokenizer)
    assert learned(parts) == [("one", 1.0)]
