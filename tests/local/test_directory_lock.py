"""The lock on the directory of a server."""

import pytest

from tinkex_sync.local.directory_lock import DirectoryLock


def test_a_locked_directory_is_refused_with_its_path(tmp_path):
    with DirectoryLock(tmp_path):
        with pytest.raises(OSError, match="in use by another server: use another directory") as caught:
            DirectoryLock(tmp_path).__enter__()
        assert str(tmp_path) in str(caught.value)


def test_a_released_directory_can_be_locked_again(tmp_path):
    for _ in range(2):
        with DirectoryLock(tmp_path):
            pass


def test_directories_are_locked_independently(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    with DirectoryLock(one), DirectoryLock(other):
        pass


def test_a_directory_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        DirectoryLock(tmp_path / "missing").__enter__()
