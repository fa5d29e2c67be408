"""Read training data from a file. The whole file is checked before anything is sent.

The content stays in the file: it is read line by line to check it, and again where a step needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Collection, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union, cast

from ..chats import Chat, parse_chat
from ..files import STANDARD_INPUT, iterate_text, open_seekable_input, reading_errors, shown_name
from ..json_lines import (
    LineProblems,
    WrongLineError,
    excerpt,
    is_blank,
    parse_object,
    require_known_keys,
    require_tokens,
)
from ..output import CommandError

__all__ = ["SAMPLED_LOSSES", "Completion", "Conversation", "Data", "Line", "Record", "Sampled", "read_data"]

#: Losses of sampled tokens. Their lines contain tokens, log probabilities and advantages.
SAMPLED_LOSSES = ("importance_sampling", "ppo", "cispo")

#: File names with these endings are JSON lines. All other files are text.
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")

#: Files with these endings are tables, and the function of pandas that reads each.
_TABLE_READERS = {".csv": "read_csv", ".tsv": "read_table", ".parquet": "read_parquet"}


#: Longest prompt in the command that follows a run, in characters.
_PROMPT_LENGTH = 48


@dataclass(frozen=True)
class Completion:
    """A line with "prompt" and "completion"."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Conversation:
    """A line with "messages"."""

    chat: Chat


@dataclass(frozen=True)
class Sampled:
    """A line with "prompt_tokens" and "completion_tokens". The other lists have one number per completion token."""

    prompt: List[int]
    completion: List[int]
    logprobs: Optional[List[float]]
    advantages: Optional[List[float]]


Record = Union[Completion, Conversation, Sampled]


class Line(NamedTuple):
    """A line of JSON lines."""

    #: Its number, from 1.
    number: int
    #: Its first byte, from 0.
    offset: int
    #: CRC-32 of its bytes. It finds a file that is changed while it is trained on.
    checksum: int


class Data:
    """A file whose content is checked: a text or JSON lines. It is a context manager. Used by one thread.

    Args:
        path: The path in messages.
        file: The open file, which :meth:`close` closes.
        is_text: Whether it is a text.
        loss: The loss function that the data is for.
        ignored: Keys of records and messages that are not read.
    """

    def __init__(self, path: Path, file: BinaryIO, is_text: bool, loss: str, ignored: Collection[str]) -> None:
        self.path = path
        self.is_text = is_text
        self._file = file
        self._loss = loss
        self._ignored = ignored
        self._resources = contextlib.ExitStack()
        self._resources.enter_context(file)
        #: SHA-256 of the content, in hexadecimal. Of a text, it does not contain the byte-order mark.
        self.sha256 = ""

    def __enter__(self) -> Data:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, and delete the temporary files."""
        self._resources.close()

    def check(self) -> None:
        """Check the whole content.

        Raises:
            CommandError: The content is not text, or lines are wrong, each as ``FILE:LINE: reason``.
        """
        digest = hashlib.sha256()
        if self.is_text:
            for text in self.texts():
                digest.update(text.encode("utf-8"))
        else:
            self._check_lines(digest)
        self.sha256 = digest.hexdigest()

    def texts(self) -> Iterator[str]:
        """Yield the text, in pieces of several megabytes if it is long."""
        with reading_errors(self.path):
            yield from iterate_text(self.path, self._file)

    def records(self) -> Iterator[Tuple[Line, Record]]:
        """Yield the lines that are not blank, in the order of the file, with their records."""
        for line, content in self._lines(hashlib.sha256()):
            yield line, self._parse(content, line)

    def record_at(self, line: Line) -> Record:
        """Read one line again.

        Raises:
            CommandError: It was changed since.
        """
        with reading_errors(self.path):
            self._file.seek(line.offset)
            content = self._file.readline()
        if zlib.crc32(content) != line.checksum:
            raise self._changed_error()
        return self._parse(content, line)

    def first_prompt(self) -> Optional[str]:
        """Return a short text that the trained model can continue; None: the data begins with a conversation."""
        text = ""
        if self.is_text:
            words = next(iter(self.texts()))[:_PROMPT_LENGTH].split()
            text = " ".join(words[:-1] or words)
        else:
            _, record = next(iter(self.records()))
            if isinstance(record, Conversation):
                return None
            text = record.prompt if isinstance(record, Completion) else ""
        is_usable = 0 < len(text) <= _PROMPT_LENGTH and text.isprintable() and not text.startswith("-")
        return text if is_usable else "Once upon a time"

    def temporary_file(self) -> BinaryIO:
        """Return a new temporary file that :meth:`close` deletes."""
        return self._resources.enter_context(cast(BinaryIO, tempfile.TemporaryFile()))

    def _check_lines(self, digest: Any) -> None:
        name, count = shown_name(self.path), 0
        problems = LineProblems(name, "Nothing was sent.")
        for line, content in self._lines(digest):
            count += 1
            if line.number == 1 and content.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise CommandError(f"{name}:1: this is UTF-16", "Save the file as UTF-8.")
            try:
                _parse_record(parse_object(content, line.number), self._loss, self._ignored)
            except WrongLineError as wrong:
                problems.add(line.number, wrong)
        problems.raise_if_any()
        if not count:
            raise CommandError(f"{name} is empty", "Give a file with one JSON object on each line.")

    def _lines(self, digest: Any) -> Iterator[Tuple[Line, bytes]]:
        """Yield the lines that are not blank, and add all lines to ``digest``."""
        offset = 0
        with reading_errors(self.path):
            self._file.seek(0)
            # Iterating would forbid the reads of record_at in between.
            for number, content in enumerate(iter(self._file.readline, b""), start=1):
                digest.update(content)
                if not is_blank(content, number):
                    yield Line(number, offset, zlib.crc32(content)), content
                offset += len(content)

    def _parse(self, content: bytes, line: Line) -> Record:
        try:
            return _parse_record(parse_object(content, line.number), self._loss, self._ignored)
        except WrongLineError:
            raise self._changed_error() from None

    def _changed_error(self) -> CommandError:
        return CommandError(
            f"{shown_name(self.path)} was changed while it was read",
            "A run needs its data unchanged to its end. Restore the file, or start a new run.",
        )


def read_data(path: Path, kind: str, loss: str, ignored: Collection[str] = ()) -> Data:
    """Open and check a file, or standard input if ``path`` is ``-``. It may be compressed with gzip.

    Standard input and the content of a compressed file are copied to a temporary file. In JSON lines, blank lines are
    skipped but counted. Lines may end with CRLF, and the file may begin with a byte-order mark.

    Args:
        kind: "text", "jsonl", or "auto", which decides by the end of the file name.
        loss: The loss function that the data is for.
        ignored: Keys of records and messages that are not read. Other unknown keys are refused.

    Raises:
        CommandError: The file cannot be read, or lines of it are wrong, each as ``FILE:LINE: reason``.
    """
    _refuse_tables(path, kind)
    is_text = (kind if kind != "auto" else _kind_of(path)) == "text"
    if is_text and loss in SAMPLED_LOSSES:
        raise CommandError(
            f"--loss {loss} cannot be computed on text",
            "It needs JSON lines with prompt_tokens, completion_tokens, logprobs and advantages.",
        )
    data = Data(path, open_seekable_input(path), is_text, loss, ignored)
    try:
        data.check()
    except BaseException:
        data.close()
        raise
    return data


def _kind_of(path: Path) -> str:
    """Return the format of a file by the end of its name."""
    if path == STANDARD_INPUT:
        raise CommandError("standard input has no name", "Give its format with --data-format.")
    return "jsonl" if _format_suffix(path) in _JSONL_SUFFIXES else "text"


def _format_suffix(path: Path) -> str:
    """Return the end of a file's name in lower case, without that of gzip."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def _refuse_tables(path: Path, kind: str) -> None:
    """Refuse Parquet by its first bytes, and CSV by its name unless the user states a format.

    As text, a model would learn the names and separators of the columns.
    """
    suffix = _format_suffix(path) if kind == "auto" else ""
    # A pipe is not opened here: its first bytes would be lost. What cannot be read is reported by the next reader.
    if path.is_file():
        with contextlib.suppress(OSError), path.open("rb") as file:
            suffix = ".parquet" if file.read(4) == b"PAR1" else suffix
    if suffix in _TABLE_READERS:
        remedy = f'pandas.{_TABLE_READERS[suffix]}({str(path)!r}).to_json("data.jsonl", orient="records", lines=True)'
        as_text = "" if suffix == ".parquet" else " To train on the file as it is, give --data-format text."
        raise CommandError(
            f"{shown_name(path)} is a table ({suffix[1:]}), which train does not read",
            f"Convert it to JSON lines: {remedy}.{as_text}",
        )


def _parse_record(value: Dict[str, Any], loss: str, ignored: Collection[str]) -> Record:
    value = {key: inner for key, inner in value.items() if key not in ignored}
    kinds = [keys for keys in _PARSERS if any(key in value for key in keys)]
    if not kinds:
        found = ", ".join(map(excerpt, value)) or "no keys"
        raise WrongLineError(
            'needs the keys "prompt" and "completion", or "messages", or "prompt_tokens" and'
            f' "completion_tokens"; it has {found}'
        )
    if len(kinds) > 1:
        raise WrongLineError(f'has both "{kinds[0][0]}" and "{kinds[1][0]}": a line may have one of them')
    [keys] = kinds
    if loss in SAMPLED_LOSSES:
        keys = ("prompt_tokens", "completion_tokens", "logprobs", "advantages")
    for key in keys:
        if key not in value or (loss in SAMPLED_LOSSES and value[key] is None):
            why = f", which --loss {loss} needs" if loss in SAMPLED_LOSSES else ""
            raise WrongLineError(f'the key "{key}" is missing{why}')
    parse, optional_keys = _PARSERS[kinds[0]]
    require_known_keys(value, {*kinds[0], *optional_keys, "id"})
    return parse(value, ignored)


def _require_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise WrongLineError(f"{name} must be text, not {excerpt(value)}")
    return value


def _parse_completion(value: Dict[str, Any], _: Collection[str]) -> Completion:
    prompt, completion = (
        _require_text(value["prompt"], '"prompt"'),
        _require_text(value["completion"], '"completion"'),
    )
    if not completion:
        raise WrongLineError('"completion" is empty, so the line has nothing to learn')
    return Completion(prompt, completion)


def _parse_conversation(value: Dict[str, Any], ignored: Collection[str]) -> Conversation:
    chat = parse_chat(value, ignored)
    if not any(chat.weights):
        is_assistant = any(message["role"] == "assistant" for message in chat.messages)
        reason = "all assistant messages have the weight 0" if is_assistant else 'no message has the role "assistant"'
        raise WrongLineError(f"{reason}, so the line has nothing to learn")
    return Conversation(chat)


def _require_numbers(value: Any, name: str, count: int) -> List[float]:
    if not isinstance(value, list) or len(value) != count:
        found = f"{len(value)}" if isinstance(value, list) else excerpt(value)
        raise WrongLineError(f"{name} must be a list of {count} numbers, one per completion token, not {found}")
    for index, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not _is_finite(number):
            raise WrongLineError(f"{name}[{index}] must be a finite number, not {excerpt(number)}")
    return [float(number) for number in value]


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that is too large for a float
        return False


def _parse_sampled(value: Dict[str, Any], _: Collection[str]) -> Sampled:
    prompt = require_tokens(value["prompt_tokens"], '"prompt_tokens"')
    completion = require_tokens(value["completion_tokens"], '"completion_tokens"')
    logprobs, advantages = value.get("logprobs"), value.get("advantages")
    if logprobs is not None:
        logprobs = _require_numbers(logprobs, '"logprobs"', len(completion))
    if advantages is not None:
        if isinstance(advantages, (int, float)):
            advantages = [advantages] * len(completion)
        advantages = _require_numbers(advantages, '"advantages"', len(completion))
    return Sampled(prompt, completion, logprobs, advantages)


_Parser = Callable[[Dict[str, Any], Collection[str]], Record]

#: The parser of each kind of line, and the keys that the line may have, by the keys that it must have.
_PARSERS: Dict[Tuple[str, ...], Tuple[_Parser, Tuple[str, ...]]] = {
    ("prompt", "completion"): (_parse_completion, ()),
    ("messages",): (_parse_conversation, ("tools",)),
    ("prompt_tokens", "completion_tokens"): (_parse_sampled, ("logprobs", "advantages")),
}
