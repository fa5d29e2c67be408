"""Training data read from files: what each line becomes, and what is told of lines that are wrong."""

import json
import re

import pytest

from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.train.data import read_data
from tinkex_sync.cli.train.examples import Batches, encode
from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

EOS = ByteTokenizer.eos_token_id
SAMPLED = {
    "prompt_tokens": [1, 2],
    "completion_tokens": [3, 4, 5],
    "logprobs": [-1.0, -2.5, 0],
    "advantages": 0.5,
}


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learnt(example):
    """The text that is learnt, with | where it ends and something else begins."""
    marks = ["|" if token == EOS else chr(token) for token in example.tokens]
    return "".join(mark if weight else "." for mark, weight in zip(marks, example.columns["weights"]))


def made(path, loss="cross_entropy", context=1024, tokenizer=None):
    return encode(read_data(path, "auto", loss), tokenizer or ByteTokenizer(), loss, context)


def test_each_token_of_a_text_but_the_first_is_learnt_once(tmp_path):
    text = "0123456789abcdefghijkl"
    path = tmp_path / "story.txt"
    path.write_text(text)
    for context in (1, 7, 21, 100):
        examples = made(path, context=context)
        assert all(example.length <= context for example in examples)
        assert bytes(token for example in examples for token in example.tokens[1:]).decode() == text[1:]
        assert sum(example.learnt for example in examples) == len(text) - 1
        datum = examples[0].datum()
        inputs = datum.loss_fn_inputs
        assert list(inputs["target_tokens"].data) == list(text[1 : context + 1].encode())
        assert list(inputs["weights"].data) == [1.0] * min(context, len(text) - 1)
        assert datum.model_input.to_ints() == list(text[: min(context, len(text) - 1)].encode())


def test_of_a_prompt_with_its_completion_the_completion_is_learnt(tmp_path):
    [example] = made(lines(tmp_path / "p.jsonl", {"prompt": "2+2=", "completion": "4", "id": 7}))
    assert (learnt(example), example.learnt) == ("....4|", 2)
    assert list(example.datum().loss_fn_inputs["weights"].data) == [0, 0, 0, 1, 1]


def test_a_conversation_in_the_simple_form(tmp_path):
    messages = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Oh"),
        ("user", "Bye"),
        ("assistant", "Yes"),
    ]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    [example] = made(lines(tmp_path / "c.jsonl", row))
    text = "system: Be brief.\nuser: Hi\nassistant: Oh|\nuser: Bye\nassistant: Yes|\n"
    assert "".join("|" if token == EOS else chr(token) for token in example.tokens) == text
    assert re.findall(r"[^.]+", learnt(example)) == [" Oh|", " Yes|"]


class Templated(ByteTokenizer):
    """With a chat template that shows thoughts in the last turn only, or in none."""

    chat_template = "yes"

    def __init__(self, thoughts):
        self.thoughts = thoughts

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, tools=()):
        assert not tokenize
        if any(message["role"] == "villain" for message in messages):
            raise RuntimeError("no villains")
        text = "".join(f"[{tool}]" for tool in tools)
        for index, message in enumerate(messages):
            think = (
                "(hm)"
                if self.thoughts and message["role"] == "assistant" and index == len(messages) - 1
                else ""
            )
            text += f"<{message['role'][0]}>{think}{message['content']}</>"
        return text + ("<a>" if add_generation_prompt else "")


@pytest.mark.parametrize(
    ("thoughts", "expected"),
    [
        (False, ["[t]<u>Hi</><a>Oh</><u>Bye</><a>Yes</>"]),
        (True, ["[t]<u>Hi</><a>(hm)Oh</>", "[t]<u>Hi</><a>Oh</><u>Bye</><a>(hm)Yes</>"]),
    ],
)
def test_a_conversation_by_the_tokenizers_own_template(tmp_path, thoughts, expected):
    messages = [("user", "Hi"), ("assistant", "Oh"), ("user", "Bye"), ("assistant", "Yes")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages], "tools": ["t"]}
    examples = made(lines(tmp_path / "c.jsonl", row), tokenizer=Templated(thoughts))
    assert [bytes(list(example.tokens)).decode() for example in examples] == expected
    replies = ["(hm)Oh</>", "(hm)Yes</>"] if thoughts else ["Oh</>", "Yes</>"]
    assert [run for example in examples for run in re.findall(r"[^.]+", learnt(example))] == replies


def test_what_only_the_tokenizer_can_tell(tmp_path):
    user, reply = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}
    path = lines(
        tmp_path / "c.jsonl",
        {"messages": [user, reply]},
        {"messages": [{"role": "villain", "content": "ha"}, reply]},
        {"prompt": "x" * 40, "completion": "y"},
    )
    with pytest.raises(CommandError) as caught:
        made(path, context=30, tokenizer=Templated(False))
    assert caught.value.message == f"{path}:2: the chat template refuses it: no villains"
    assert caught.value.details == (
        f"{path}:3: 41 tokens are more than --context 30: raise it or shorten the line",
        "Nothing was trained.",
    )
    with pytest.raises(CommandError, match=r':1: "tools" need a chat template'):
        made(lines(tmp_path / "t.jsonl", {"messages": [user, reply], "tools": []}))
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(CommandError, match="one.txt:1: the text is one token"):
        made(tmp_path / "one.txt")


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo"])
def test_sampled_tokens_with_advantages(tmp_path, loss):
    [example] = made(lines(tmp_path / "s.jsonl", SAMPLED), loss)
    inputs = example.datum().loss_fn_inputs
    assert sorted(inputs) == ["advantages", "logprobs", "target_tokens"]
    assert list(inputs["target_tokens"].data) == [2, 3, 4, 5]
    assert list(inputs["logprobs"].data) == [0.0, -1.0, -2.5, 0.0]
    assert list(inputs["advantages"].data) == [0.0, 0.5, 0.5, 0.5]
    [plain] = made(tmp_path / "s.jsonl")
    assert list(plain.datum().loss_fn_inputs["weights"].data) == [0, 1, 1, 1]


def test_blank_lines_crlf_and_a_byte_order_mark_do_no_harm(tmp_path):
    row = json.dumps({"prompt": "\u2028\x85é", "completion": "b"}, ensure_ascii=False).encode()
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row)
    data = read_data(tmp_path / "p.jsonl", "auto", "cross_entropy")
    assert [(record.line, record.prompt) for record in data.records] == [
        (1, "\u2028\x85é"),
        (4, "\u2028\x85é"),
    ]


USER = {"role": "user", "content": "Hi"}
WRONG = {
    b"{": "not JSON: Expecting property name enclosed in double quotes",
    b'{"prompt": "a" "completion": "b"}': "not JSON: Expecting ',' delimiter at column 16",
    b"[1]": "must be an object, not [1]",
    b'{"prompt": "a", "completion": "\xff"}': "not UTF-8: byte 0xff at column 32",
    b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}': "not JSON: Unexpected UTF-8 BOM",
    b'{"prompt": "a", "completion": "\\ud800"}': "holds the lone surrogate '\\ud800'",
    b'{"prompt": "a", "prompt": "b", "completion": "c"}': 'the key "prompt" is there twice',
    b'{"prompt": NaN}': "NaN is not JSON",
    b"[" * 100_000: "not JSON",
    b'{"text": "a"}': 'needs the keys "prompt" and "completion", or "messages"',
    b"{}": "it has none at all",
    b'{"prompt": "a"}': 'the key "completion" is missing',
    b'{"completion": "a"}': 'the key "prompt" is missing',
    b'{"prompt": "a", "messages": []}': 'has both "prompt" and "messages"',
    b'{"prompt": 1, "completion": "a"}': '"prompt" must be a text, not 1',
    b'{"prompt": "a", "completion": null}': '"completion" must be a text, not null',
    b'{"prompt": "a", "completion": ""}': '"completion" is empty',
    b'{"messages": []}': '"messages" must be a list with at least one message, not []',
    b'{"messages": "hi"}': '"messages" must be a list with at least one message, not "hi"',
    b'{"messages": ["hi"]}': '"messages"[0] must be an object, not "hi"',
    b'{"messages": [{"role": "user"}]}': '"messages"[0] has no "content"',
    b'{"messages": [{"role": "", "content": "a"}]}': '"messages"[0]["role"] is empty',
    b'{"messages": [{"role": "user", "content": ["a"]}]}': '"messages"[0]["content"] must be a text, not ["a"]',
    json.dumps({"messages": [USER]}).encode(): 'no message has the role "assistant"',
    b'{"messages": [{"role": "assistant", "content": "a"}], "tools": 1}': '"tools" must be a list, not 1',
    b'{"prompt_tokens": [], "completion_tokens": [1]}': '"prompt_tokens" must be a list with at least one',
    b'{"prompt_tokens": [1], "completion_tokens": [true]}': '"completion_tokens"[0] must be a token, not true',
    b'{"prompt_tokens": [1], "completion_tokens": [-1]}': '"completion_tokens"[0] must be a token, not -1',
}


@pytest.mark.parametrize(("line", "reason"), WRONG.items(), ids=range(len(WRONG)))
def test_a_wrong_line_is_named_with_file_line_and_reason(tmp_path, line, reason):
    path = tmp_path / "p.jsonl"
    good = b'{"prompt": "a", "completion": "b"}\n'
    path.write_bytes(good + b"\n" + line + b"\n" + good)
    with pytest.raises(CommandError) as caught:
        read_data(path, "auto", "cross_entropy")
    assert caught.value.message.startswith(f"{path}:3: ")
    assert reason in caught.value.message
    assert caught.value.details == ("Nothing was sent.",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logprobs": [1.0]}, '"logprobs" must be a list of 3 numbers, one a completion token, not 1'),
        ({"logprobs": None}, 'the key "logprobs" is missing, which --loss ppo needs'),
        ({"logprobs": [1, 2, "x"]}, '"logprobs"[2] must be a finite number, not "x"'),
        ({"logprobs": [1, 2, 10**400]}, '"logprobs"[2] must be a finite number'),
        ({"advantages": "x"}, '"advantages" must be a list of 3 numbers, one a completion token, not "x"'),
        ({"advantages": True}, '"advantages"[0] must be a finite number, not true'),
    ],
)
def test_wrong_columns(tmp_path, change, reason):
    with pytest.raises(CommandError) as caught:
        read_data(lines(tmp_path / "s.jsonl", {**SAMPLED, **change}), "auto", "ppo")
    assert caught.value.message.startswith(f"{tmp_path / 's.jsonl'}:1: {reason}")


def test_a_loss_on_sampled_tokens_needs_them(tmp_path):
    with pytest.raises(CommandError, match='"prompt_tokens" is missing, which --loss ppo needs'):
        read_data(lines(tmp_path / "p.jsonl", {"prompt": "a", "completion": "b"}), "auto", "ppo")
    with pytest.raises(CommandError, match="--loss cispo cannot be computed on text"):
        read_data(tmp_path / "p.txt", "auto", "cispo")


def test_many_wrong_lines_are_counted(tmp_path):
    with pytest.raises(CommandError) as caught:
        read_data(lines(tmp_path / "p.jsonl", *[{}] * 13), "auto", "cross_entropy")
    assert len(caught.value.details) == 11
    assert caught.value.details[-2:] == ("... and 3 more lines", "Nothing was sent.")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\n \n", "is empty"), ("{}".encode("utf-16"), ":1: this is UTF-16")],
)
def test_a_file_without_lines(tmp_path, content, reason):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(CommandError, match=reason):
        read_data(tmp_path / "p.jsonl", "auto", "cross_entropy")
    with pytest.raises(CommandError, match="cannot read .*none.jsonl: No such file"):
        read_data(tmp_path / "none.jsonl", "auto", "cross_entropy")


def test_every_epoch_takes_all_examples_in_an_order_of_its_own():
    batches = Batches(10, 4, seed=1)
    assert batches.per_epoch == 3
    epochs = [[batches.take(3 * epoch + index) for index in range(3)] for epoch in range(3)]
    assert [len(batch) for batch in epochs[0]] == [4, 4, 2]
    orders = [sum(epoch, []) for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert Batches(10, 4, seed=1).take(7) == epochs[2][1], "without the steps before it"
    assert Batches(10, 4, seed=2).take(0) != epochs[0][0]
    assert orders[0] == [2, 6, 8, 5, 4, 3, 0, 9, 7, 1], "on every Python, as a run may go on with another"
