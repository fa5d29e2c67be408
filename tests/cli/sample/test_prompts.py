"""Files of prompts: every line is checked, and a file that changes between two readings is noticed."""

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinkex_sync.cli.files import STANDARD_INPUT
from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.sample.prompts import PromptFile


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "prompts.jsonl"
        path.write_bytes(content)
        return path

    return write


def test_prompts_are_read_in_order_without_blank_lines(write):
    content = b'\xef\xbb\xbf{"prompt": "a", "id": "x"}\r\n\n{"prompt": [1, 2], "id": 7}\n'
    with PromptFile(write(content)) as prompts:
        assert (prompts.count, prompts.needs_tokenizer) == (2, True)
        assert [(prompt.index, prompt.content, prompt.id) for prompt in prompts] == [(0, "a", "x"), (1, [1, 2], 7)]
        assert len(prompts.fingerprint) == 64
    with PromptFile(write(b'{"prompt": [1, 2]}')) as prompts:
        assert not prompts.needs_tokenizer


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_standard_input_and_compressed_prompts_are_read_as_a_file_is(compress, write, monkeypatch):
    content = b'{"prompt": "a"}\n{"prompt": "b"}\n'
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(compress(content))))
    with PromptFile(STANDARD_INPUT) as given, PromptFile(write(content)) as saved:
        assert [prompt.content for prompt in given] == ["a", "b"]
        assert [prompt.content for prompt in given] == ["a", "b"]
        assert given.fingerprint == saved.fingerprint


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b"[1]", "must be an object, not [1]"),
        (b"{}", 'the key "prompt" or "messages" is missing; it has no keys'),
        (b'{"text": "a"}', 'the key "prompt" or "messages" is missing; it has "text"'),
        (b'{"prompt": 5}', '"prompt" must be text or a list of token ids, not 5'),
        (b'{"prompt": ""}', '"prompt" is empty'),
        (b'{"prompt": []}', '"prompt" is empty'),
        (b'{"prompt": "\\ud800"}', "it contains the lone surrogate"),
        (b'{"prompt": [1, 2147483648]}', '"prompt"[1] must be a token id, not 2147483648'),
        (b'{"prompt": [1, true]}', '"prompt"[1] must be a token id, not true'),
        (b'{"prompt": "a", "id": true}', '"id" must be text or an integer, not true'),
        (b'{"prompt": "a", "id": "x"}', 'an earlier line has the same "id", "x"'),
        (b'{"prompt": "a", "prompt": "b"}', 'the key "prompt" occurs twice'),
        (b'{"prompt": "\xe4"}', "not UTF-8: byte 0xe4"),
        (b'{"prompt": "a", "messages": []}', 'has both "prompt" and "messages"'),
        (b'{"messages": []}', '"messages" must be a list with at least one message'),
        (b'{"messages": [{"role": "assistant", "content": "a"}]}', 'the last message has the role "assistant"'),
        (b'{"prompt": "a", "tools": []}', 'the key "tools" is not known here'),
        (b'{"prompt": "a", "min_p": 0.1}', 'the key "min_p" is not known here (known: id, max_tokens,'),
        (b'{"prompt": "a", "temperature": "hot"}', '"temperature" must be a finite number of at least 0'),
        (b'{"prompt": "a", "temperature": true}', '"temperature" must be a finite number of at least 0'),
        (b'{"prompt": "a", "top_k": 0}', '"top_k" must be -1 or a whole number of at least 1, not 0'),
        (b'{"prompt": "a", "top_p": 2}', '"top_p" must be a number above 0 and at most 1, not 2'),
        (b'{"prompt": "a", "max_tokens": 1.5}', '"max_tokens" must be a whole number of at least 1'),
        (b'{"prompt": "a", "stop": ["a", 1]}', '"stop" must be a text, a list of texts, or a list of token ids'),
        (b'{"prompt": "a", "stop": ""}', '"stop" must be'),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line, reason, write):
    path = write(b'{"prompt": "a", "id": "x"}\n\n' + line + b"\n")
    with pytest.raises(CommandError) as refused:
        PromptFile(path)
    assert refused.value.message.startswith(f"{path}:3: {reason}")
    assert refused.value.details[-1].startswith("Nothing was sent.")


def test_ten_wrong_lines_are_named_and_the_others_counted(write):
    path = write(b"[]\n" * 13)
    with pytest.raises(CommandError) as refused:
        PromptFile(path)
    lines = [refused.value.message, *refused.value.details]
    assert lines[:10] == [f"{path}:{line}: must be an object, not []" for line in range(1, 11)]
    assert lines[10] == "... and 3 more lines"


def test_a_prompt_has_a_chat_and_options_of_its_own(write):
    row = {"messages": [USER], "id": 1, "temperature": 0, "stop": ["a"], "seed": None, "num_samples": 2}
    with PromptFile(write(json.dumps(row).encode())) as prompts:
        [prompt] = prompts
    assert prompt.content.messages == [USER]
    assert prompt.options == {"temperature": 0, "stop": ["a"], "num_samples": 2}


def test_keys_named_by_the_user_are_not_read(write):
    row = {"prompt": "a", "completion": "b"}
    with PromptFile(write(json.dumps(row).encode()), {"completion"}) as prompts:
        assert [prompt.content for prompt in prompts] == ["a"]


def test_chats_that_cannot_be_encoded_are_named_with_their_lines(write):
    rows = [{"prompt": "a"}, *({"messages": [{**USER, "content": text}]} for text in ("good", "bad", "worse"))]
    path = write("\n".join(map(json.dumps, rows)).encode())

    def check(chat):
        if chat.messages[0]["content"] != "good":
            raise ValueError("no template")

    with PromptFile(path) as prompts:
        prompts.check_chats(lambda chat: None)
        with pytest.raises(CommandError) as refused:
            prompts.check_chats(check)
    assert [refused.value.message, *refused.value.details] == [
        f"{path}:3: no template",
        f"{path}:4: no template",
        "Nothing was sampled.",
    ]


@pytest.mark.parametrize("content", [b'{"prompt": "b"}\n', b"[]\n"])
def test_a_file_that_changes_between_two_readings_is_noticed(content, write):
    with PromptFile(write(b'{"prompt": "a"}\n')) as prompts:
        write(content)
        with pytest.raises(CommandError, match="was changed while it was read"):
            list(prompts)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev"])
def test_a_device_or_folder_is_refused(path):
    with pytest.raises(CommandError, match="is not a plain file"):
        PromptFile(Path(path))
