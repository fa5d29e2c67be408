"""Check and read the files that a user names."""

from __future__ import annotations

import codecs
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
    "STANDARD_INPUT", "iterate_text", "open_input", "open_seekable_input", "read_bytes", "read_text", "reading_errors",
    "require_readable_file", "require_writable_file", "shown_name", "temporary_file_errors",
]  # fmt: skip


#: The path that stands for standard input.
STANDARD_INPUT = Path("-")
_GZIP = b"\x1f\x8b"
#: Largest number of bytes of a text that are read together, up to the end of their last line. A smaller text is one
#: piece, so its tokens do not depend on where it is divided.
_PIECE = 4 << 20


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


def open_seekable_input(path: Path) -> BinaryIO:
    """Open an input like :func:`open_input`, for reads at any position.

    Compressed content is copied to a temporary file, because each step back in it would decompress it from its start.
    """
    file: Any = open_input(path)
    if not isinstance(file, gzip.GzipFile):
        return cast(BinaryIO, file)
    with reading_errors(path), file:
        return _copied(cast(BinaryIO, file))


@contextmanager
def temporary_file_errors() -> Iterator[None]:
    """Raise the error of a full disk with the setting that selects another folder for temporary files."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise CommandError(
            f"cannot write a temporary file: {error.strerror}", "Set TMPDIR to a folder on a disk with more space."
        ) from None


def _copied(source: BinaryIO) -> BinaryIO:
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 (the caller closes it)
    try:
        with temporary_file_errors():
            shutil.copyfileobj(source, file)
            file.seek(0)
    except BaseException:
        # Closing tries to write the rest again.
        with suppress(OSError):
            file.close()
        raise
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
    with reading_errors(path), open_input(path) as file:
        return "".join(iterate_text(path, file))


def iterate_text(path: Path, file: BinaryIO) -> Iterator[str]:
    """Yield the content of a UTF-8 text file in pieces, without its byte-order mark.

    Each piece but the last has at least 4 MiB and ends with a line, unless the line is longer than that.

    Args:
        path: The path in messages.
        file: The open file. It is read from its start.

    Raises:
        CommandError: The file is empty or is not text.
    """
    decoder, position, is_blank = codecs.getincrementaldecoder("utf-8")(), 0, True
    file.seek(0)
    while True:
        content = file.read(_PIECE)
        content += file.readline(_PIECE) if len(content) == _PIECE else b""
        start = position - len(decoder.getstate()[0])
        try:
            if b"\0" in content:
                raise ValueError(f"zero byte at position {position + content.index(0)}")
            text = decoder.decode(content, final=not content)
        except ValueError as error:
            if isinstance(error, UnicodeDecodeError):
                error = ValueError(f"{error.reason} at position {start + error.start}")
            raise CommandError(
                f"{shown_name(path)} is not a text file: {error}", "Give a file of plain text, encoded as UTF-8."
            ) from None
        is_blank = is_blank and not content.strip()
        if position == 0:
            text = text[1:] if text.startswith("\ufeff") else text
        if not content:
            break
        position += len(content)
        yield text
    if is_blank:
        raise CommandError(f"{shown_name(path)} is empty", "Give a file that contains text.")


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
