"""A lock on the directory of a server, because two servers would overwrite each other's records."""

from __future__ import annotations

import errno
from pathlib import Path
from types import TracebackType
from typing import IO, Optional, Type

from ..logs import get_logger

__all__ = ["DirectoryLock"]

_log = get_logger(__name__)

#: The name of the locked file in the directory.
LOCK_FILE = ".lock"
#: The error numbers with which the system reports that another process holds the lock.
_IN_USE = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
else:

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class DirectoryLock:
    """Holds a lock on a directory. A context manager.

    The system releases the lock when the process ends, even if it is killed.

    Args:
        directory: The directory, which must exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: Optional[IO[bytes]] = None

    def __enter__(self) -> DirectoryLock:
        """Lock the directory.

        Raises:
            OSError: Another server uses the directory, or its lock file cannot be written.
        """
        file = (self._directory / LOCK_FILE).open("ab")
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _IN_USE:
                file.close()
                raise OSError(
                    f"directory {self._directory} is in use by another server: use another directory, or end that"
                    " server"
                ) from None
            # Some network file systems have no locks.
            _log.warning("directory not locked: directory=%s error=%s", self._directory, error)
        self._file = file
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], traceback: Optional[TracebackType]
    ) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None
