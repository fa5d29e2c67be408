"""Files of prompts: every line is checked, and a file that changes between two readings is noticed."""

import pytest

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
    prompts = PromptFile(write(b'\xef\xbb\xbf{"prompt": "a", "id": "x"}\r\n\n{"prompt": [1, 2], "id": 7}\n'))
    assert (prompts.count, prompts.text_count) == (2, 1)
    assert [(prompt.index, prompt.content, prompt.id) for prompt in prompts] == [
        (0, "a", "x"),
        (1, [1, 2], 7),
    ]
    assert len(prompts.fingerprint) == 64


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a"', "not JSON"),
        (b"[1]", "must be an object, not [1]"),
        (b"{}", 'the key "prompt" is missing; it has no keys'),
        (b'{"prompt": 5}', '"prompt" must be text or a list of token ids, not 5'),
        (b'{"prompt": ""}', '"prompt" is empty'),
        (b'{"prompt": [1, 2147483648]}', '"prompt"[1] must be a token id, not 2147483648'),
        (b'{"prompt": "a", "id": true}', '"id" must be text or an integer, not True'),
        (b'{"prompt": "\xe4"}', "not UTF-8 text"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(line, reason, write):
    path = write(b'{"prompt": "a"}\n\n' + line + b"\n")
    with pytest.raises(CommandError) as refused:
        PromptFile(path)
    assert refused.value.message.startswith(f"{path}, line 3: {reason}")


def test_a_file_that_changes_between_two_readings_is_noticed(write):
    prompts = PromptFile(write(b'{"prompt": "a"}\n'))
    write(b'{"prompt": "b"}\n')
    with pytest.raises(CommandError, match="was changed while it was read"):
        list(prompts)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev"])
def test_a_device_or_folder_is_refused(path):
    from pathlib import Path

    with pytest.raises(CommandError, match="is not a plain file"):
        PromptFile(Path(path))
