"""Check and read the files that a user names."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import stat
import sys
import tempfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Iterator, cast

from .output import CommandError

__all__ = [
    "STANDARD_INPUT", "open_input", "read_bytes", "read_text", "reading_errors", "require_readable_file",
    "require_writable_file", "shown_name",
]  # fmt: skip


#: The path that stands for standard input.
STANDARD_INPUT = Path("-")
_GZIP = b"\x1f\x8b"


def shown_name(path: Path) -> str:
    """Return the name of an input in messages."""
    return "stdin" if path == STANDARD_INPUT else str(path)


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Raise errors of reading ``path``, compressed or not, as CommandError."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"cannot read {shown_name(path)}: {reason}", "Give the path of a file.") from None


def open_input(path: Path) -> BinaryIO:
    """Open an input, which can then be read and rewound.

    Content that is compressed with gzip is decompressed. Standard input (``-``) and pipes are copied to a temporary
    file first.

    Raises:
        CommandError: ``path`` is a folder or a device, or cannot be read.
    """
    with reading_errors(path):
        if path == STANDARD_INPUT:
            file = _copied(sys.stdin.buffer)
        else:
            require_readable_file(path)
            # The caller closes it.
            file = path.open("rb")
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                with file:
                    file = _copied(file)
        is_compressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not is_compressed:
            return file
        decompressed: Any = gzip.GzipFile(fileobj=file, mode="rb")
        # GzipFile.close closes this file too.
        decompressed.myfileobj = file
        return cast(BinaryIO, decompressed)


def _copied(source: BinaryIO) -> BinaryIO:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (the caller closes it)
    shutil.copyfileobj(source, file)
    file.seek(0)
    return file


def read_bytes(path: Path) -> bytes:
    """Return the content of an input; see :func:`open_input`.

    Raises:
        CommandError: ``path`` is a folder or a device, or cannot be read.
    """
    with reading_errors(path), open_input(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 text file without its byte-order mark.

    Raises:
        CommandError: The file cannot be read, is empty or is not text.
    """
    content = read_bytes(path)
    if not content.strip():
        raise CommandError(f"{shown_name(path)} is empty", "Give a file that contains text.")
    try:
        if b"\0" in content:
            raise ValueError(f"zero byte at position {content.index(0)}")
        return content.decode("utf-8-sig")
    except ValueError as error:
        raise CommandError(
            f"{shown_name(path)} is not a text file: {error}", "Give a file of plain text, encoded as UTF-8."
        ) from None


def require_readable_file(path: Path) -> None:
    """Check that ``path`` is a regular file or a pipe. Reading a device such as ``/dev/zero`` never ends.

    Raises:
        CommandError: ``path`` does not exist, or is a folder or a device.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", "Give the path of a file.") from None
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise CommandError(f"cannot read {path}: it is not a plain file", "Give the path of a file.")


def require_writable_file(path: Path, remedy: str) -> None:
    """Check that ``path`` is a regular file that can be written, or that it can be created.

    Nothing is opened or created. Devices and pipes must not be opened: reading ``/dev/full`` never ends, and opening
    a FIFO blocks.

    Args:
        remedy: The second line of the error, which names the option to use.

    Raises:
        CommandError: ``path`` is a folder, a device, a pipe or one of the standard streams, or cannot be written.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise CommandError(f"cannot write {path}: there is no folder {path.parent}", remedy) from None
        if not os.access(path.parent, os.W_OK):
            raise CommandError(f"cannot write {path}: {os.strerror(errno.EACCES)}", remedy) from None
        return
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}", remedy) from None
    if not stat.S_ISREG(found.st_mode):
        raise CommandError(f"{path} is not a plain file", remedy)
    if any(os.path.samestat(found, stream) for stream in _standard_streams()):
        raise CommandError(f"{path} is a standard stream of this command", remedy)
    if not os.access(path, os.W_OK):
        raise CommandError(f"cannot write {path}: {os.strerror(errno.EACCES)}", remedy)


def _standard_streams() -> Iterator[os.stat_result]:
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            yield os.fstat(descriptor)
