"""Write responses as JSON lines, to a file that a later run continues or to standard output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, Dict, List, Mapping, Optional

from ...concurrency.clock import Clock
from ...protocol import json_wire
from ..files import require_writable_file
from ..output import CommandError

__all__ = ["ResponseFile", "ResponseStream", "error_fields", "require_output", "sequence_fields"]

_VERSION = 1
#: Seconds between two writes to the disk. A power failure loses the responses of this time at most.
_SYNC_INTERVAL = 5.0


class ResponseFile:
    """A file with at most one response for each prompt, in the order in which responses arrive. Used by one thread.

    Each response is passed to the operating system as one complete line, so it outlives the process. Every five seconds
    and at the end the file is written to the disk. The record ``NAME.run`` beside it contains the fingerprint of the
    prompts and the settings. The record is locked while a process writes. The memory is one bit for each prompt.

    The constructor cuts off an incomplete last line. It removes the lines of failed prompts, so that they are sampled
    again.

    Args:
        settings: "prompts_sha256", "prompts" (their number), and the options of the run. A later run must have the
            same settings.

    Raises:
        CommandError: ``path`` is not a plain file, another process writes to it, it was started with other settings,
            or it is damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], clock: Clock) -> None:
        require_output(path)
        require_output(_beside(path, ".run"))
        self.path = path
        self._clock = clock
        self._total = int(settings["prompts"])
        self._has_response = bytearray(self._total // 8 + 1)
        #: Number of prompts that have a response.
        self.answered = 0
        self._file: Optional[BinaryIO] = None
        self._record = _open(_beside(path, ".run"), "r+b")
        try:
            _lock(self._record, path)
            self._compare_record(dict(settings, version=_VERSION))
            if path.exists():
                self._restore()
            # Unbuffered: no part of a line stays in this process.
            self._file = _open(path, "ab", buffering=0)
        except BaseException:
            self.close()
            raise
        self._synced = clock.time()

    @property
    def is_writable(self) -> bool:
        """Whether :meth:`write` may be called. It is False after a write error and after :meth:`close`."""
        return self._file is not None

    def has(self, index: int) -> bool:
        """Return whether a prompt has a response."""
        return bool(self._has_response[index >> 3] & 1 << (index & 7))

    def write(self, response: Mapping[str, Any]) -> None:
        """Append the response to a prompt, or its error, as one line.

        Args:
            response: "index", and "sequences" or "error".

        Raises:
            CommandError: The file cannot be written, for example because the disk is full. Earlier lines are kept.
        """
        index = response["index"]
        if self._file is None or self.has(index):
            raise CommandError(f"{self.path}: prompt {index} already has a response, or the file is closed")
        try:
            _write_line(self._file, response)
            now = self._clock.time()
            if now - self._synced >= _SYNC_INTERVAL:
                os.fsync(self._file.fileno())
                self._synced = now
        except OSError as error:
            # No line may follow an incomplete one.
            self._file.close()
            self._file = None
            raise CommandError(
                f"cannot write {self.path}: {error.strerror}", "The responses in it so far are kept."
            ) from None
        if "error" not in response:
            self._mark(index)

    def close(self) -> None:
        """Write the file to the disk and release the lock. Later calls have no effect."""
        try:
            if self._file is not None:
                os.fsync(self._file.fileno())
                self._file.close()
        finally:
            self._file = None
            self._record.close()

    def _compare_record(self, settings: Dict[str, Any]) -> None:
        """Compare the settings with the record of the run that started the file, or write a new record."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            self._write_record(settings)
            return
        self._record.seek(0)
        content = self._record.read()
        try:
            recorded = json.loads(content) if content else None
        except ValueError:
            recorded = None
        remedy = "Give another output with -o, or delete this one to start again."
        if not isinstance(recorded, dict):
            raise CommandError(f"{self.path} exists, and no record beside it names the prompts that it answers", remedy)
        changed = [name for name in {**settings, **recorded} if recorded.get(name) != settings.get(name)]
        if "prompts_sha256" in changed:
            raise CommandError(
                f"{self.path} contains responses to other prompts: the file of prompts was changed since"
                f" ({recorded.get('prompts')} prompts then, {settings['prompts']} now)",
                remedy,
            )
        if changed:
            changes = ", ".join(f"{name} was {recorded.get(name)!r}, is {settings.get(name)!r}" for name in changed)
            raise CommandError(f"{self.path} was started with other settings: {changes}", remedy)

    def _write_record(self, settings: Dict[str, Any]) -> None:
        self._record.seek(0)
        self._record.truncate()
        self._record.write(json.dumps(settings, indent=2).encode() + b"\n")
        self._record.flush()
        os.fsync(self._record.fileno())

    def _restore(self) -> None:
        """Mark the prompts that have responses, cut off an incomplete line, and remove failed prompts."""
        complete, failed = 0, 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                complete += len(line)
                index = self._parse_index(line, number)
                if index is None:
                    failed += 1
                elif not self._mark(index):
                    raise CommandError(
                        f"{self.path}, line {number}: prompt {index} already has a response",
                        "Another program changed the file; give another output with -o.",
                    )
        if failed:
            self._rewrite(complete)
        elif complete < self.path.stat().st_size:
            with self.path.open("r+b") as file:
                file.truncate(complete)

    def _parse_index(self, line: bytes, number: int) -> Optional[int]:
        """Return the index of the prompt of a line, or None if the line contains an error."""
        try:
            value = json_wire.loads(line)
            index = value["index"]
            if type(index) is not int or not 0 <= index < self._total:
                raise ValueError(f"index {index!r}")
            return None if "error" in value else index
        except (ValueError, TypeError, KeyError) as error:
            raise CommandError(
                f"{self.path}, line {number}: not a response in the form of this command ({error})",
                "Repair or delete the line, or give another output with -o.",
            ) from None

    def _rewrite(self, size: int) -> None:
        """Replace the file by its first ``size`` bytes without failed prompts, in one step."""
        new_path = _beside(self.path, ".new")
        left = size
        with self.path.open("rb") as old, new_path.open("wb") as new:
            for line in old:
                left -= len(line)
                if left < 0:
                    break
                if "error" not in json_wire.loads(line):
                    new.write(line)
            new.flush()
            os.fsync(new.fileno())
        new_path.replace(self.path)

    def _mark(self, index: int) -> bool:
        """Mark a prompt as answered. Return False if it was answered before."""
        if self.has(index):
            return False
        self._has_response[index >> 3] |= 1 << (index & 7)
        self.answered += 1
        return True


class ResponseStream:
    """Responses on standard output, in the order in which they arrive. Used by one thread.

    There is no record, so an interrupted run cannot be continued.
    """

    path = "standard output"

    def __init__(self) -> None:
        #: Number of prompts that have a response.
        self.answered = 0
        # Unbuffered: a write error is raised for the line that caused it, and nothing is left to write at exit.
        self._file: Optional[BinaryIO] = os.fdopen(os.dup(sys.stdout.fileno()), "wb", 0)

    @property
    def is_writable(self) -> bool:
        """Whether :meth:`write` may be called. It is False after a write error and after :meth:`close`."""
        return self._file is not None

    def has(self, _index: int) -> bool:
        """Return False: standard output contains no responses of an earlier run."""
        return False

    def write(self, response: Mapping[str, Any]) -> None:
        """Write the response to a prompt, or its error, as one line.

        Raises:
            CommandError: Standard output cannot be written, for example because its reader has exited.
        """
        assert self._file is not None
        try:
            _write_line(self._file, response)
        except OSError as error:
            self.close()
            raise CommandError(f"cannot write standard output: {error.strerror}") from None
        self.answered += "error" not in response

    def close(self) -> None:
        """Close this copy of standard output. Later calls have no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None


def require_output(path: Path) -> None:
    """Check that responses can be written to ``path``, before anything is sampled.

    Raises:
        CommandError: ``path`` is not a plain file, or cannot be written.
    """
    require_writable_file(path, "Give a file with -o, or -o - for standard output.")
    if path.suffix == ".gz":
        # A compressed file cannot be continued line by line.
        raise CommandError(
            f"{path} would not be compressed", f"Write to {path.with_suffix('')}, and compress it at the end."
        )


def error_fields(error: BaseException) -> Dict[str, str]:
    """Return the "error" of a line."""
    return {"type": type(error).__name__, "message": str(error)}


def sequence_fields(response: Any, texts: Optional[List[str]], logprobs: bool) -> List[Dict[str, Any]]:
    """Return the "sequences" of a line.

    Args:
        response: A ``SampleResponse``.
        texts: The decoded sequences. None: the lines contain token ids only.
        logprobs: Whether the line contains the log probability of each token.
    """
    return [
        {
            **({} if texts is None else {"text": texts[position]}),
            "tokens": list(sequence.tokens),
            "stop_reason": sequence.stop_reason,
            **({"logprobs": sequence.logprobs} if logprobs else {}),
        }
        for position, sequence in enumerate(response.sequences)
    ]


def _write_line(file: BinaryIO, response: Mapping[str, Any]) -> None:
    text = json.dumps(response, ensure_ascii=False, separators=(",", ":"))
    left = memoryview(text.encode("utf-8", "backslashreplace") + b"\n")
    while left:
        # An unbuffered file may write only a part.
        left = left[file.write(left) :]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _open(path: Path, mode: str, buffering: int = -1) -> BinaryIO:
    try:
        if mode == "r+b":
            # r+b does not create the file, and w+b would delete its content.
            path.open("ab").close()
        return path.open(mode, buffering)  # type: ignore[return-value]
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _lock(file: BinaryIO, path: Path) -> None:
    """Lock ``file`` until it is closed. The system releases the lock of a killed process.

    Raises:
        CommandError: Another process holds the lock.
    """
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
