"""The file of replies: one writer, whole lines, and going on where an earlier run was cut off."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Mapping, Optional

from ...concurrency.clock import Clock
from ...protocol import json_wire as codec
from ..output import CommandError

__all__ = ["ReplyFile", "ReplyStream", "require_plain_file"]

_VERSION = 1
#: Seconds; what a power failure may take.
_SYNC_EVERY = 5.0


class ReplyFile:
    """Replies as JSON lines, in the order they come, at most one line for each prompt.

    A reply is handed to the operating system as one whole line when it comes, so it outlives the process, however
    that ends; it is forced to the disk every five seconds and at the end. Beside it lies ``NAME.run``, which says
    what is being answered (the fingerprint of the prompts, and the settings) and which is locked while a process
    writes. Memory: one bit per prompt.

    Opening it cuts off a torn last line, and takes out the prompts that failed, so that they are tried again.

    Args:
        run: What is being answered: "prompts_sha256", "prompts" (how many), and the settings.

    Raises:
        CommandError: another process writes to it, it answers other prompts, or it is damaged.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], clock: Clock) -> None:
        require_plain_file(path)
        require_plain_file(_beside(path, ".run"))
        self.path = path
        self._clock = clock
        self._total = int(run["prompts"])
        self._answered = bytearray(self._total // 8 + 1)
        #: Prompts that have a reply.
        self.answered = 0
        self._file: Optional[BinaryIO] = None
        self._record = _opened(_beside(path, ".run"), "r+b")
        try:
            _lock(self._record, path)
            self._check(dict(run, version=_VERSION))
            if path.exists():
                self._recover()
            # Unbuffered: nothing of a line stays with us.
            self._file = _opened(path, "ab", buffering=0)
        except BaseException:
            self.close()
            raise
        self._synced = clock.time()

    def _check(self, run: Dict[str, Any]) -> None:
        """Compare with the run that began the file, or begin one."""
        empty = not self.path.exists() or self.path.stat().st_size == 0
        self._record.seek(0)
        content = self._record.read()
        try:
            before = json.loads(content) if content else None
        except ValueError:
            before = None
        if empty:
            self._record.seek(0)
            self._record.truncate()
            self._record.write(json.dumps(run, indent=2).encode() + b"\n")
            self._record.flush()
            os.fsync(self._record.fileno())
            return
        another = "Give another output with -o, or delete this one to begin anew."
        if not isinstance(before, dict):
            raise CommandError(
                f"{self.path} is there already, and nothing beside it says which prompts it answers", another
            )
        changed = [name for name in {**run, **before} if before.get(name) != run.get(name)]
        if "prompts_sha256" in changed:
            raise CommandError(
                f"{self.path} answers other prompts: the file of prompts was changed since it was begun"
                f" ({before.get('prompts')} prompts then, {run['prompts']} now)",
                another,
            )
        if changed:
            told = ", ".join(f"{name} was {before.get(name)!r}, is {run.get(name)!r}" for name in changed)
            raise CommandError(f"{self.path} was begun with other settings: {told}", another)

    def _recover(self) -> None:
        """Note what is answered; cut off a torn line; take failed prompts out."""
        whole, failed = 0, 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                index = self._index(line, number)
                if index is None:
                    failed += 1
                elif not self._note(index):
                    raise CommandError(
                        f"{self.path}, line {number}: prompt {index} has a reply already",
                        "The file was changed by something else; give another output with -o.",
                    )
        if failed:
            self._rewrite(whole)
        elif whole < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(whole)

    def _index(self, line: bytes, number: int) -> Optional[int]:
        """Which prompt a line answers; None if it says that the prompt failed."""
        try:
            found = codec.loads(line)
            index = found["index"]
            if type(index) is not int or not 0 <= index < self._total:
                raise ValueError(f"index {index!r}")
            return None if "error" in found else index
        except (ValueError, TypeError, KeyError) as error:
            raise CommandError(
                f"{self.path}, line {number}: not a reply as this command writes it ({error})",
                "Repair or delete that line, or give another output with -o.",
            ) from None

    def _rewrite(self, whole: int) -> None:
        """The same file without failed prompts, put in the place of the old one in one step."""
        fresh = _beside(self.path, ".new")
        left = whole
        with self.path.open("rb") as old, fresh.open("wb") as new:
            for line in old:
                left -= len(line)
                if left < 0:
                    break
                if "error" not in codec.loads(line):
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
        fresh.replace(self.path)

    def _note(self, index: int) -> bool:
        if self.has(index):
            return False
        self._answered[index >> 3] |= 1 << (index & 7)
        self.answered += 1
        return True

    def has(self, index: int) -> bool:
        """Whether a prompt has a reply."""
        return bool(self._answered[index >> 3] & 1 << (index & 7))

    def write(self, reply: Mapping[str, Any]) -> None:
        """Append the reply to a prompt, or its error.

        Raises:
            CommandError: the disk is full, for instance. What was written before stands.
        """
        index = reply["index"]
        if self._file is None or self.has(index):
            raise CommandError(f"{self.path}: prompt {index} has a reply already, or the file is closed")
        try:
            _write_line(self._file, reply)
            now = self._clock.time()
            if now - self._synced >= _SYNC_EVERY:
                os.fsync(self._file.fileno())
                self._synced = now
        except OSError as error:
            # No further line may follow a torn one.
            self._file.close()
            self._file = None
            raise CommandError(
                f"cannot write {self.path}: {error.strerror}", "What it holds so far is kept."
            ) from None
        if "error" not in reply:
            self._note(index)

    @property
    def writable(self) -> bool:
        """Whether :meth:`write` may be called: False after a write error and after :meth:`close`."""
        return self._file is not None

    def close(self) -> None:
        """Force it to the disk, and let others write."""
        try:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
        finally:
            self._file = None
            self._record.close()


class ReplyStream:
    """Replies as JSON lines on standard output, in the order in which they arrive.

    Nothing is recorded beside it, so an interrupted run cannot be continued. It is used by one thread.
    """

    path = "standard output"

    def __init__(self) -> None:
        #: Number of prompts that have a reply.
        self.answered = 0
        # Unbuffered: a write error is raised for the line that caused it, and nothing is left to write at exit.
        self._file: Optional[BinaryIO] = os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0)

    @property
    def writable(self) -> bool:
        """Whether :meth:`write` may be called: False after a write error and after :meth:`close`."""
        return self._file is not None

    def has(self, index: int) -> bool:
        """Return False: a stream never contains replies of an earlier run."""
        return False

    def write(self, reply: Mapping[str, Any]) -> None:
        """Write the reply to a prompt, or its error, as one line.

        Raises:
            CommandError: standard output cannot be written, for example because its reader has exited.
        """
        assert self._file is not None
        try:
            _write_line(self._file, reply)
        except OSError as error:
            self.close()
            raise CommandError(f"cannot write standard output: {error.strerror}") from None
        self.answered += "error" not in reply

    def close(self) -> None:
        """Close this copy of standard output. Later calls have no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _write_line(file: BinaryIO, reply: Mapping[str, Any]) -> None:
    text = json.dumps(reply, ensure_ascii=False, separators=(",", ":"))
    left = memoryview(text.encode("utf-8", "backslashreplace") + b"\n")
    while left:
        left = left[file.write(left) :]


def require_plain_file(path: Path) -> None:
    """Check that ``path`` is a regular file that can be written, or can be created as one.

    Nothing is opened or created. Devices and pipes must not be opened: reading ``/dev/full`` never ends, and opening
    a FIFO blocks.

    Raises:
        CommandError: ``path`` is a folder, a device, a pipe or one of the standard streams, or cannot be written.
    """
    remedy = "Give a file with -o, or -o - for standard output."
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


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _opened(path: Path, mode: str, buffering: int = -1) -> BinaryIO:
    try:
        if mode == "r+b":
            # Made if it is not there, kept as it is if it is.
            path.open("ab").close()
        return path.open(mode, buffering)  # type: ignore[return-value]
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _lock(file: BinaryIO, path: Path) -> None:
    """For as long as ``file`` is open; the system takes the lock back from a process that was killed."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(2**30)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise CommandError(
            f"another process is writing {path}", "Wait for it, or give another output with -o."
        ) from None


def failure_of(error: BaseException) -> Dict[str, str]:
    """The error of a prompt as it goes into its line."""
    return {"type": type(error).__name__, "message": str(error)}


def sequences_of(reply: Any, texts: Optional[List[str]], logprobs: bool) -> List[Dict[str, Any]]:
    """The completions of a reply as they go into its line."""
    return [
        {
            **({} if texts is None else {"text": texts[place]}),
            "tokens": list(sequence.tokens),
            "stop_reason": sequence.stop_reason,
            **({"logprobs": sequence.logprobs} if logprobs else {}),
        }
        for place, sequence in enumerate(reply.sequences)
    ]
