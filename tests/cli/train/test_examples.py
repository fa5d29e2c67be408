"""Encoding of training data: which tokens of each record are learned."""

import re

import pytest
from data_rows import SAMPLED, write_rows

from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.train.data import read_data
from tinkex_sync.cli.train.examples import encode
from tinkex_sync.tokenizers.byte_tokenizer import ByteTokenizer

EOS = ByteTokenizer.eos_token_id


def learned_text(example):
    """Return the text that is learned, with | for the end-of-sequence token and . for other tokens."""
    marks = ["|" if token == EOS else chr(token) for token in example.tokens]
    return "".join(mark if weight else "." for mark, weight in zip(marks, example.columns["weights"]))


def encoded(path, loss="cross_entropy", context=1024, tokenizer=None):
    with read_data(path, "auto", loss) as data:
        examples = encode(data, tokenizer or ByteTokenizer(), loss, context)
        return [examples[index] for index in range(len(examples))]


def test_each_token_of_a_text_but_the_first_is_learned_once(tmp_path):
    text = "0123456789abcdefghijkl"
    path = tmp_path / "story.txt"
    path.write_text(text)
    for context in (1, 7, 21, 100):
        examples = encoded(path, context=context)
        assert all(example.length <= context for example in examples)
        assert bytes(token for example in examples for token in example.tokens[1:]).decode() == text[1:]
        assert sum(example.learned for example in examples) == len(text) - 1
        datum = examples[0].datum()
        inputs = datum.loss_fn_inputs
        assert list(inputs["target_tokens"].data) == list(text[1 : context + 1].encode())
        assert list(inputs["weights"].data) == [1.0] * min(context, len(text) - 1)
        assert datum.model_input.to_ints() == list(text[: min(context, len(text) - 1)].encode())


def test_the_completion_of_a_prompt_is_learned(tmp_path):
    [example] = encoded(write_rows(tmp_path / "p.jsonl", {"prompt": "2+2=", "completion": "4", "id": 7}))
    assert (learned_text(example), example.learned) == ("....4|", 2)
    assert list(example.datum().loss_fn_inputs["weights"].data) == [0, 0, 0, 1, 1]


def test_a_conversation_without_a_template_is_one_line_per_message(tmp_path):
    messages = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Oh"), ("user", "Bye"), ("assistant", "Yes")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    [example] = encoded(write_rows(tmp_path / "c.jsonl", row))
    text = "system: Be brief.\nuser: Hi\nassistant: Oh|\nuser: Bye\nassistant: Yes|\n"
    assert "".join("|" if token == EOS else chr(token) for token in example.tokens) == text
    assert re.findall(r"[^.]+", learned_text(example)) == [" Oh|", " Yes|"]


class Templated(ByteTokenizer):
    """A tokenizer whose chat template shows thoughts in the last message only, or in none."""

    chat_template = "yes"

    def __init__(self, thoughts):
        self.thoughts = thoughts

    def apply_chat_template(self, messages, tokenize, add_generation_prompt, tools=()):
        assert not tokenize
        if any(message["role"] == "villain" for message in messages):
            raise RuntimeError("no villains")
        text = "".join(f"[{tool}]" for tool in tools)
        for index, message in enumerate(messages):
            think = "(hm)" if self.thoughts and message["role"] == "assistant" and index == len(messages) - 1 else ""
            text += f"<{message['role'][0]}>{think}{message['content']}</>"
        return text + ("<a>" if add_generation_prompt else "")


@pytest.mark.parametrize(
    ("thoughts", "expected"),
    [
        (False, ["[t]<u>Hi</><a>Oh</><u>Bye</><a>Yes</>"]),
        (True, ["[t]<u>Hi</><a>(hm)Oh</>", "[t]<u>Hi</><a>Oh</><u>Bye</><a>(hm)Yes</>"]),
    ],
)
def test_a_conversation_with_a_template_is_one_example_or_one_per_response(tmp_path, thoughts, expected):
    messages = [("user", "Hi"), ("assistant", "Oh"), ("user", "Bye"), ("assistant", "Yes")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages], "tools": ["t"]}
    examples = encoded(write_rows(tmp_path / "c.jsonl", row), tokenizer=Templated(thoughts))
    assert [bytes(list(example.tokens)).decode() for example in examples] == expected
    responses = ["(hm)Oh</>", "(hm)Yes</>"] if thoughts else ["Oh</>", "Yes</>"]
    assert [run for example in examples for run in re.findall(r"[^.]+", learned_text(example))] == responses


def test_lines_that_cannot_be_encoded_are_named(tmp_path):
    user, response = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Oh"}
    path = write_rows(
        tmp_path / "c.jsonl",
        {"messages": [user, response]},
        {"messages": [{"role": "villain", "content": "ha"}, response]},
        {"prompt": "x" * 40, "completion": "y"},
    )
    with pytest.raises(CommandError) as caught:
        encoded(path, context=30, tokenizer=Templated(False))
    assert caught.value.message == f"{path}:2: the chat template raised an error: no villains"
    assert caught.value.details == (
        f"{path}:3: 41 tokens are more than --context 30: raise it or shorten the line",
        "Nothing was trained.",
    )
    with pytest.raises(CommandError, match=r':1: "tools" need a chat template'):
        encoded(write_rows(tmp_path / "t.jsonl", {"messages": [user, response], "tools": []}))
    (tmp_path / "one.txt").write_text("x")
    with pytest.raises(CommandError, match="one.txt:1: the text is a single token"):
        encoded(tmp_path / "one.txt")


@pytest.mark.parametrize("loss", ["importance_sampling", "ppo", "cispo"])
def test_sampled_tokens_have_log_probabilities_and_advantages(tmp_path, loss):
    [example] = encoded(write_rows(tmp_path / "s.jsonl", SAMPLED), loss)
    inputs = example.datum().loss_fn_inputs
    assert sorted(inputs) == ["advantages", "logprobs", "target_tokens"]
    assert list(inputs["target_tokens"].data) == [2, 3, 4, 5]
    assert list(inputs["logprobs"].data) == [0.0, -1.0, -2.5, 0.0]
    assert list(inputs["advantages"].data) == [0.0, 0.5, 0.5, 0.5]
    [plain] = encoded(tmp_path / "s.jsonl")
    assert list(plain.datum().loss_fn_inputs["weights"].data) == [0, 1, 1, 1]


def test_examples_are_read_in_any_order_and_from_long_texts_in_pieces(tmp_path, read, monkeypatch):
    text = "".join(f"Line {n} é\n" for n in range(999))
    (tmp_path / "story.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    whole = encoded(tmp_path / "story.txt", context=50)
    monkeypatch.setattr("tinkex_sync.cli.files._PIECE", 100)
    data = read(tmp_path / "story.txt", "auto", "cross_entropy")
    pieces = list(data.texts())
    assert len(pieces) > 50 and all(piece.endswith("\n") for piece in pieces) and "".join(pieces) == text
    examples = encode(data, ByteTokenizer(), "cross_entropy", 50)
    assert len(examples) == len(whole)
    for index in reversed(range(len(whole))):
        assert examples[index] == whole[index]
    (tmp_path / "long.txt").write_text("é" * 999)
    assert encoded(tmp_path / "long.txt", context=3000)[0].tokens.tobytes().count(0xC3.to_bytes(4, "little")) == 999
    (tmp_path / "cut.txt").write_bytes("é".encode() * 300 + b"\xc3")
    with pytest.raises(CommandError, match="cut.txt is not a text file: unexpected end of data at position 600"):
        encoded(tmp_path / "cut.txt")


def test_a_resumed_order_reads_each_example_of_a_conversation(tmp_path, read):
    messages = [("user", "Hi"), ("assistant", "Oh"), ("user", "Bye"), ("assistant", "Yes")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    path = write_rows(tmp_path / "c.jsonl", row, row)
    examples = encode(read(path, "auto", "cross_entropy"), Templated(True), "cross_entropy", 1024)
    assert len(examples) == 4
    texts = [bytes(list(examples[index].tokens)).decode() for index in (3, 0, 1, 2)]
    assert texts == [texts[2], texts[3], texts[0], texts[1]]
    assert texts[0].endswith("(hm)Yes</>") and texts[1].endswith("(hm)Oh</>")
