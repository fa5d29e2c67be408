"""Files that a user names: wrong ones are refused before they are opened."""

import gzip
import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinkex_sync.cli.files import (
    STANDARD_INPUT,
    open_input,
    read_bytes,
    read_text,
    require_readable_file,
    require_writable_file,
)
from tinkex_sync.cli.output import CommandError


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"a\0b", "zero byte at position 1"), (b"\xff\xfe", "not a text file")],
)
def test_a_file_that_is_not_text_is_refused(content, reason, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=reason):
        read_text(path)


def test_text_is_read_without_its_byte_order_mark(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbftext")
    assert read_text(path) == "text"
    assert read_bytes(path) == b"\xef\xbb\xbftext"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev", "none"])
def test_devices_folders_and_missing_files_are_not_read(path):
    with pytest.raises(CommandError, match=f"cannot read {path}"):
        read_bytes(Path(path))


def test_a_pipe_may_be_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    require_readable_file(tmp_path / "fifo")


def test_a_plain_or_new_file_may_be_written(tmp_path):
    (tmp_path / "there").touch()
    require_writable_file(tmp_path / "there", "remedy")
    require_writable_file(tmp_path / "new", "remedy")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null", "", "fifo", "none/file", "there/file"])
def test_everything_else_may_not_be_written(name, tmp_path):
    (tmp_path / "there").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(CommandError) as refused:
        require_writable_file(tmp_path / name, "Give another file.")
    assert refused.value.details == ("Give another file.",)


def test_a_standard_stream_may_not_be_written(tmp_path, monkeypatch):
    path = tmp_path / "there"
    path.touch()
    monkeypatch.setattr(os, "fstat", lambda descriptor: path.stat())
    with pytest.raises(CommandError, match="is a standard stream of this command"):
        require_writable_file(path, "remedy")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write to every file")
def test_a_file_or_folder_without_permission_may_not_be_written(tmp_path):
    (tmp_path / "there").touch(0o400)
    with pytest.raises(CommandError, match="Permission denied"):
        require_writable_file(tmp_path / "there", "remedy")
    (tmp_path / "folder").mkdir(0o500)
    with pytest.raises(CommandError, match="Permission denied"):
        require_writable_file(tmp_path / "folder" / "new", "remedy")


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("source", ["file", "pipe", "standard input"])
def test_an_input_can_be_read_twice_and_is_decompressed(source, compress, tmp_path, monkeypatch):
    content, path = compress(b"some text"), tmp_path / "input"
    if source == "file":
        path.write_bytes(content)
    elif source == "pipe":
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    else:
        path = STANDARD_INPUT
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    with open_input(path) as file:
        for _ in range(2):
            assert file.read() == b"some text"
            file.seek(0)


def test_a_damaged_archive_is_refused(tmp_path):
    path, content = tmp_path / "input.gz", gzip.compress(b"some text" * 100)
    for damaged in (content[:-9], content[:12] + b"\xff" * 20 + content[32:]):
        path.write_bytes(damaged)
        with pytest.raises(CommandError, match=f"cannot read {path}: "):
            read_bytes(path)
