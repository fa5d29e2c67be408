"""Unpack the archive of a checkpoint: every byte is checked, and no file is written outside the folder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any, Callable, Iterator

from ..errors import APIResponseValidationError

__all__ = ["replace_folder", "unpack"]

_BLOCK = 1 << 18
#: More files, or folders in one path, than any checkpoint has.
_MOST_FILES, _MOST_FOLDERS = 100_000, 64


def unpack(packed: Path, folder: Path, on_file: Callable[[int], None], max_bytes: int) -> None:
    """Unpack a tar archive of any compression as plain files.

    Args:
        packed: The archive.
        folder: A new folder. It is created.
        on_file: Called after each file, with the number of files so far.
        max_bytes: Size of all files at most.

    Raises:
        APIResponseValidationError: The archive is broken, empty or too large, or contains a member that is not a file
            or folder below it.
    """
    folder.mkdir()
    count, size = 0, 0
    try:
        with tarfile.open(packed, "r:*") as archive:
            for member in archive:
                target = folder.joinpath(_checked_name(member.name))
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with _open_member(archive, member) as content, target.open("wb") as file:
                    size += content.seek(0, os.SEEK_END)
                    if size > max_bytes or count >= _MOST_FILES:
                        raise ValueError(
                            f"it has more than {max_bytes} bytes or {_MOST_FILES} files: set max_bytes higher if it may"
                        )
                    content.seek(0)
                    shutil.copyfileobj(content, file, _BLOCK)
                count += 1
                on_file(count)
            # The checksum of a compressed archive comes after its last member.
            with contextlib.suppress(AttributeError):
                while archive.fileobj.read(_BLOCK):
                    pass
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, MemoryError) as error:
        raise _broken(str(error) or type(error).__name__) from error
    except Exception as error:
        # zlib.error and LZMAError have no base class of their own.
        if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
            raise
        raise _broken(str(error)) from error
    if count == 0:
        raise _broken("it contains no files")


def _broken(reason: str) -> APIResponseValidationError:
    return APIResponseValidationError(f"the archive cannot be used, and nothing was changed: {reason}")


def _checked_name(name: str) -> PurePosixPath:
    """Return the relative path of a member.

    Raises:
        ValueError: The path leads outside the folder.
    """
    path = PurePosixPath(name)
    is_absolute = path.is_absolute() or re.match(r"[A-Za-z]:", name) is not None
    if is_absolute or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} would be unpacked outside the folder")
    if len(path.parts) > _MOST_FOLDERS:
        raise ValueError(f"{name[:80]!r}... is a path of {len(path.parts)} folders")
    return path


@contextlib.contextmanager
def _open_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[IO[bytes]]:
    """Open the content of a member. A link is a copy of the member that it leads to.

    Raises:
        ValueError: The member is a device, a pipe, or a link to a file outside the archive.
    """
    file: Any = None
    if member.isreg() or member.islnk() or member.issym():
        try:
            file = archive.extractfile(member)
        except (KeyError, RecursionError):
            raise ValueError(f"{member.name!r} is a link to {member.linkname!r}, which is not in the archive") from None
    if file is None:
        raise ValueError(f"{member.name!r} is neither a file nor a folder")
    with file:
        yield file


def replace_folder(new: Path, destination: Path, backup: Path) -> None:
    """Rename ``new`` to ``destination``. If that fails, the old ``destination`` is restored.

    Args:
        backup: A path at which the old ``destination`` is kept. It must not exist.
    """
    has_old = destination.exists()
    if has_old:
        destination.rename(backup)
    try:
        new.rename(destination)
    except OSError:
        if has_old:
            backup.rename(destination)
        raise
