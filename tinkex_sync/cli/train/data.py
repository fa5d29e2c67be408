"""Read training data from a file. The whole file is checked before anything is sent."""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Collection, Dict, List, Optional, Tuple, Union

from ..chats import Chat, parse_chat
from ..files import STANDARD_INPUT, read_bytes, read_text, shown_name
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

__all__ = ["SAMPLED_LOSSES", "Completion", "Conversation", "Data", "Record", "Sampled", "read_data"]

#: Losses of sampled tokens. Their lines contain tokens, log probabilities and advantages.
SAMPLED_LOSSES = ("importance_sampling", "ppo", "cispo")

#: File names with these endings are JSON lines. All other files are text.
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")

#: Files with these endings are tables, and the function of pandas that reads each.
_TABLE_READERS = {".csv": "read_csv", ".tsv": "read_table", ".parquet": "read_parquet"}


@dataclass(frozen=True)
class Completion:
    """A line with "prompt" and "completion"."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class Conversation:
    """A line with "messages"."""

    line: int
    chat: Chat


@dataclass(frozen=True)
class Sampled:
    """A line with "prompt_tokens" and "completion_tokens". The other lists have one number per completion token."""

    line: int
    prompt: List[int]
    completion: List[int]
    logprobs: Optional[List[float]]
    advantages: Optional[List[float]]


Record = Union[Completion, Conversation, Sampled]


@dataclass(frozen=True)
class Data:
    """The content of a file: either ``text`` or ``records``."""

    path: Path
    #: SHA-256 of the content, in hexadecimal.
    sha256: str
    text: Optional[str]
    records: List[Record]


def read_data(path: Path, kind: str, loss: str, ignored: Collection[str] = ()) -> Data:
    """Read and check a file, or standard input if ``path`` is ``-``. It may be compressed with gzip.

    In JSON lines, blank lines are skipped but counted. Lines may end with CRLF, and the file may begin with a
    byte-order mark.

    Args:
        kind: "text", "jsonl", or "auto", which decides by the end of the file name.
        loss: The loss function that the data is for.
        ignored: Keys of records and messages that are not read. Other unknown keys are refused.

    Raises:
        CommandError: The file cannot be read, or lines of it are wrong, each as ``FILE:LINE: reason``.
    """
    _refuse_tables(path, kind)
    if (kind if kind != "auto" else _kind_of(path)) == "text":
        if loss in SAMPLED_LOSSES:
            raise CommandError(
                f"--loss {loss} cannot be computed on text",
                "It needs JSON lines with prompt_tokens, completion_tokens, logprobs and advantages.",
            )
        text = read_text(path)
        return Data(path, hashlib.sha256(text.encode("utf-8")).hexdigest(), text, [])
    content, name = read_bytes(path), shown_name(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CommandError(f"{name}:1: this is UTF-16", "Save the file as UTF-8.")
    records: List[Record] = []
    problems = LineProblems(name, "Nothing was sent.")
    # str.splitlines would also split at U+2028 and other characters.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not is_blank(line, number):
            try:
                records.append(_parse_record(number, parse_object(line, number), loss, ignored))
            except WrongLineError as wrong:
                problems.add(number, wrong)
    problems.raise_if_any()
    if not records:
        raise CommandError(f"{name} is empty", "Give a file with one JSON object on each line.")
    return Data(path, hashlib.sha256(content).hexdigest(), None, records)


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


def _parse_record(number: int, value: Dict[str, Any], loss: str, ignored: Collection[str]) -> Record:
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
    return parse(number, value, ignored)


def _require_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise WrongLineError(f"{name} must be text, not {excerpt(value)}")
    return value


def _parse_completion(number: int, value: Dict[str, Any], _: Collection[str]) -> Completion:
    prompt, completion = (
        _require_text(value["prompt"], '"prompt"'),
        _require_text(value["completion"], '"completion"'),
    )
    if not completion:
        raise WrongLineError('"completion" is empty, so the line has nothing to learn')
    return Completion(number, prompt, completion)


def _parse_conversation(number: int, value: Dict[str, Any], ignored: Collection[str]) -> Conversation:
    chat = parse_chat(value, ignored)
    if not any(chat.weights):
        is_assistant = any(message["role"] == "assistant" for message in chat.messages)
        reason = "all assistant messages have the weight 0" if is_assistant else 'no message has the role "assistant"'
        raise WrongLineError(f"{reason}, so the line has nothing to learn")
    return Conversation(number, chat)


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


def _parse_sampled(number: int, value: Dict[str, Any], _: Collection[str]) -> Sampled:
    prompt = require_tokens(value["prompt_tokens"], '"prompt_tokens"')
    completion = require_tokens(value["completion_tokens"], '"completion_tokens"')
    logprobs, advantages = value.get("logprobs"), value.get("advantages")
    if logprobs is not None:
        logprobs = _require_numbers(logprobs, '"logprobs"', len(completion))
    if advantages is not None:
        if isinstance(advantages, (int, float)):
            advantages = [advantages] * len(completion)
        advantages = _require_numbers(advantages, '"advantages"', len(completion))
    return Sampled(number, prompt, completion, logprobs, advantages)


_Parser = Callable[[int, Dict[str, Any], Collection[str]], Record]

#: The parser of each kind of line, and the keys that the line may have, by the keys that it must have.
_PARSERS: Dict[Tuple[str, ...], Tuple[_Parser, Tuple[str, ...]]] = {
    ("prompt", "completion"): (_parse_completion, ()),
    ("messages",): (_parse_conversation, ("tools",)),
    ("prompt_tokens", "completion_tokens"): (_parse_sampled, ("logprobs", "advantages")),
}
