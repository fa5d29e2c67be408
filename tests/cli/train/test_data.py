"""Training data of a file: every line is checked, and wrong ones are named."""

import gzip
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_rows import SAMPLED, write_rows

from tinkex_sync.cli.files import STANDARD_INPUT
from tinkex_sync.cli.output import CommandError
from tinkex_sync.cli.train.data import Completion, read_data


def test_blank_lines_crlf_and_a_byte_order_mark_are_accepted(tmp_path, read):
    row = json.dumps({"prompt": "\u2028\x85é", "completion": "b"}, ensure_ascii=False).encode()
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row)
    data = read(tmp_path / "p.jsonl", "auto", "cross_entropy")
    assert [(line.number, record.prompt) for line, record in data.records()] == [(1, "\u2028\x85é"), (4, "\u2028\x85é")]


USER = {"role": "user", "content": "Hi"}
WRONG = {
    b"{": "not JSON: Expecting property name enclosed in double quotes",
    b'{"prompt": "a" "completion": "b"}': "not JSON: Expecting ',' delimiter at column 16",
    b"[1]": "must be an object, not [1]",
    b'{"prompt": "a", "completion": "\xff"}': "not UTF-8: byte 0xff at column 32",
    b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}': "not JSON: Unexpected UTF-8 BOM",
    b'{"prompt": "a", "completion": "\\ud800"}': "it contains the lone surrogate '\\ud800'",
    b'{"prompt": "a", "prompt": "b", "completion": "c"}': 'the key "prompt" occurs twice',
    b'{"prompt": NaN}': "NaN is not JSON",
    b"[" * 100_000: "not JSON",
    b'{"text": "a"}': 'needs the keys "prompt" and "completion", or "messages"',
    b"{}": "it has no keys",
    b'{"prompt": "a"}': 'the key "completion" is missing',
    b'{"completion": "a"}': 'the key "prompt" is missing',
    b'{"prompt": "a", "messages": []}': 'has both "prompt" and "messages"',
    b'{"prompt": 1, "completion": "a"}': '"prompt" must be text, not 1',
    b'{"prompt": "a", "completion": null}': '"completion" must be text, not null',
    b'{"prompt": "a", "completion": ""}': '"completion" is empty',
    b'{"messages": []}': '"messages" must be a list with at least one message, not []',
    b'{"messages": "hi"}': '"messages" must be a list with at least one message, not "hi"',
    b'{"messages": ["hi"]}': '"messages"[0] must be an object, not "hi"',
    b'{"messages": [{"role": "user"}]}': '"messages"[0] has no "content"',
    b'{"messages": [{"role": "", "content": "a"}]}': '"messages"[0]["role"] is empty',
    b'{"messages": [{"role": "user", "content": 5}]}': '"messages"[0]["content"] must be text, not 5',
    b'{"messages": [{"role": "user", "content": null}]}': '"messages"[0]["content"] must be text, not null',
    b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}': "other parts cannot be encoded",
    b'{"prompt": "a", "completion": "b", "weight": 2}': 'the key "weight" is not known here (known: completion, id,',
    b'{"messages": [], "enable_thinking": true}': 'the key "enable_thinking" is not known here',
    b'{"messages": [{"role": "assistant", "content": "a", "weight": 0}]}': "all assistant messages have the weight 0",
    b'{"messages": [{"role": "assistant", "content": "a", "weight": -1}]}': '["weight"] must be a finite number of',
    b'{"messages": [{"role": "assistant", "content": "a", "weight": true}]}': '["weight"] must be a finite number of',
    b'{"messages": [{"role": "assistant", "content": "a", "trainable": 1}]}': '["trainable"] must be true or false',
    b'{"messages": [{"role": "assistant", "content": "a", "weight": 0, "trainable": true}]}': "give one of them",
    b'{"messages": [{"role": "user", "content": "a", "trainable": true}]}': '"messages"[0] cannot be learned',
    json.dumps({"messages": [USER]}).encode(): 'no message has the role "assistant"',
    b'{"messages": [{"role": "assistant", "content": "a"}], "tools": 1}': '"tools" must be a list, not 1',
    b'{"prompt_tokens": [], "completion_tokens": [1]}': '"prompt_tokens" must be a list with at least one',
    b'{"prompt_tokens": [1], "completion_tokens": [true]}': '"completion_tokens"[0] must be a token id, not true',
    b'{"prompt_tokens": [1], "completion_tokens": [-1]}': '"completion_tokens"[0] must be a token id, not -1',
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
        ({"logprobs": [1.0]}, '"logprobs" must be a list of 3 numbers, one per completion token, not 1'),
        ({"logprobs": None}, 'the key "logprobs" is missing, which --loss ppo needs'),
        ({"logprobs": [1, 2, "x"]}, '"logprobs"[2] must be a finite number, not "x"'),
        ({"logprobs": [1, 2, 10**400]}, '"logprobs"[2] must be a finite number'),
        ({"advantages": "x"}, '"advantages" must be a list of 3 numbers, one per completion token, not "x"'),
        ({"advantages": True}, '"advantages"[0] must be a finite number, not true'),
    ],
)
def test_wrong_columns_of_sampled_tokens_are_named(tmp_path, change, reason):
    with pytest.raises(CommandError) as caught:
        read_data(write_rows(tmp_path / "s.jsonl", {**SAMPLED, **change}), "auto", "ppo")
    assert caught.value.message.startswith(f"{tmp_path / 's.jsonl'}:1: {reason}")


def test_a_loss_of_sampled_tokens_requires_them(tmp_path):
    with pytest.raises(CommandError, match='"prompt_tokens" is missing, which --loss ppo needs'):
        read_data(write_rows(tmp_path / "p.jsonl", {"prompt": "a", "completion": "b"}), "auto", "ppo")
    with pytest.raises(CommandError, match="--loss cispo cannot be computed on text"):
        read_data(tmp_path / "p.txt", "auto", "cispo")


def test_ten_wrong_lines_are_named_and_the_others_counted(tmp_path):
    with pytest.raises(CommandError) as caught:
        read_data(write_rows(tmp_path / "p.jsonl", *[{}] * 13), "auto", "cross_entropy")
    assert len(caught.value.details) == 11
    assert caught.value.details[-2:] == ("... and 3 more lines", "Nothing was sent.")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"\n \n", "is empty"), ("{}".encode("utf-16"), ":1: this is UTF-16")]
)
def test_an_unusable_file_is_refused(tmp_path, content, reason):
    (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(CommandError, match=reason):
        read_data(tmp_path / "p.jsonl", "auto", "cross_entropy")
    with pytest.raises(CommandError, match="cannot read .*none.jsonl: No such file"):
        read_data(tmp_path / "none.jsonl", "auto", "cross_entropy")


def test_keys_named_by_the_user_are_not_read(tmp_path, read):
    response = {"role": "assistant", "content": "a", "name": "bot"}
    path = write_rows(tmp_path / "c.jsonl", {"messages": [response], "source": "web", "id": 3})
    with pytest.raises(CommandError, match='"source" is not known here .* name it with --ignore-keys'):
        read_data(path, "auto", "cross_entropy")
    [(_, record)] = read(path, "auto", "cross_entropy", {"source", "name"}).records()
    assert record.chat.messages == [{"role": "assistant", "content": "a"}]


def test_a_compressed_file_has_the_content_and_the_format_of_the_file_in_it(tmp_path, read):
    plain = write_rows(tmp_path / "p.jsonl", {"prompt": "a", "completion": "b"})
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    first, second = (read(path, "auto", "cross_entropy") for path in (plain, tmp_path / "p.jsonl.gz"))
    assert (list(first.records()), first.sha256) == (list(second.records()), second.sha256)
    [(line, record)] = second.records()
    assert second.record_at(line) == record


def test_standard_input_needs_a_format_and_is_named_stdin(monkeypatch):
    with pytest.raises(CommandError, match="standard input has no name"):
        read_data(STANDARD_INPUT, "auto", "cross_entropy")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"[]")))
    with pytest.raises(CommandError, match=r"stdin:1: must be an object, not \[\]"):
        read_data(STANDARD_INPUT, "jsonl", "cross_entropy")


@pytest.mark.parametrize("name, reader", [("d.csv", "read_csv"), ("d.TSV", "read_table"), ("d.csv.gz", "read_csv")])
def test_a_table_is_refused_with_the_line_that_converts_it(tmp_path, name, reader):
    (tmp_path / name).write_text("prompt,completion\na,b\n")
    with pytest.raises(CommandError) as refused:
        read_data(tmp_path / name, "auto", "cross_entropy")
    assert reader in str(refused.value.__dict__) + str(refused.value)


@pytest.mark.parametrize("kind", ["auto", "text", "jsonl"])
@pytest.mark.parametrize("name", ["d.parquet", "d.jsonl", "d"])
def test_parquet_is_refused_by_its_content(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"PAR1\x15\x04")
    with pytest.raises(CommandError, match="is a table"):
        read_data(tmp_path / name, kind, "cross_entropy")


def test_csv_is_text_if_the_user_says_so(tmp_path, read):
    (tmp_path / "d.csv").write_text("prompt,completion\na,b\n")
    assert list(read(tmp_path / "d.csv", "text", "cross_entropy").texts()) == ["prompt,completion\na,b\n"]


def test_lines_are_read_again_in_any_order_and_a_changed_line_is_refused(tmp_path, read):
    # The file is longer than the buffer of its reader.
    rows = [{"prompt": f"{n}+{n}=" + " " * 9000, "completion": str(2 * n)} for n in range(9)]
    path = write_rows(tmp_path / "p.jsonl", *rows)
    path.write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes().rstrip())
    data = read(path, "auto", "cross_entropy")
    lines = [line for line, _ in data.records()]
    assert [line.number for line in lines] == list(range(2, 11))
    for line in reversed(lines):
        assert data.record_at(line).prompt == rows[line.number - 2]["prompt"]
    with path.open("r+b") as file:
        file.seek(lines[4].offset)
        file.write(b'{"prompt": "5+5=')
    assert data.record_at(lines[3]) == Completion(rows[3]["prompt"], rows[3]["completion"])
    with pytest.raises(CommandError, match="p.jsonl was changed while it was read"):
        data.record_at(lines[4])


def test_a_full_disk_names_the_setting_for_temporary_files(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a", "completion": "b"}' * 10))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: Path("/dev/full").open("r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(CommandError, match="cannot write a temporary file: No space left") as refused:
        read_data(tmp_path / "p.jsonl.gz", "auto", "cross_entropy")
    assert "TMPDIR" in refused.value.details[0]
