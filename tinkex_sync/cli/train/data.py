"""Read training data from a file. The whole file is checked before anything is sent."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, Union

from ..files import read_bytes, read_text
from ..output import CommandError

__all__ = [
    "SAMPLED_LOSSES",
    "Completion",
    "Conversation",
    "Data",
    "Record",
    "Sampled",
    "read_data",
    "refuse_lines",
]

#: Losses of sampled tokens. Their lines contain tokens, log probabilities and advantages.
SAMPLED_LOSSES = ("importance_sampling", "ppo", "cispo")

#: File names with these endings are JSON lines. All other files are text.
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
#: The largest number of wrong lines in one error.
_SHOWN_PROBLEMS = 10


@dataclass(frozen=True)
class Completion:
    """A line with "prompt" and "completion"."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class Conversation:
    """A line with "messages", each of which is a dict with "role" and "content"."""

    line: int
    messages: List[Dict[str, Any]]
    tools: Optional[List[Any]]


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


def read_data(path: Path, kind: str, loss: str) -> Data:
    """Read and check a file.

    In JSON lines, blank lines are skipped but counted. Lines may end with CRLF, and the file may begin with a
    byte-order mark. Unknown keys are ignored.

    Args:
        kind: "text", "jsonl", or "auto", which decides by the end of the file name.
        loss: The loss function that the data is for.

    Raises:
        CommandError: The file cannot be read, or lines of it are wrong, each as ``FILE:LINE: reason``.
    """
    if kind == "auto":
        kind = "jsonl" if path.suffix.lower() in _JSONL_SUFFIXES else "text"
    if kind == "text":
        if loss in SAMPLED_LOSSES:
            raise CommandError(
                f"--loss {loss} cannot be computed on text",
                "It needs JSON lines with prompt_tokens, completion_tokens, logprobs and advantages.",
            )
        text = read_text(path)
        return Data(path, hashlib.sha256(text.encode("utf-8")).hexdigest(), text, [])
    content = read_bytes(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CommandError(f"{path}:1: this is UTF-16", "Save the file as UTF-8.")
    records: List[Record] = []
    problems: List[Tuple[int, str]] = []
    # str.splitlines would also split at U+2028 and other characters.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        if line.strip():
            try:
                records.append(_parse_record(number, _parse_object(line), loss))
            except _WrongLine as wrong:
                problems.append((number, str(wrong)))
    refuse_lines(path, problems, "Nothing was sent.")
    if not records:
        raise CommandError(f"{path} is empty", "Give a file with one JSON object on each line.")
    return Data(path, hashlib.sha256(content).hexdigest(), None, records)


def refuse_lines(path: Path, problems: List[Tuple[int, str]], end: str) -> None:
    """Raise an error that names the wrong lines of a file, if there are any.

    Args:
        problems: The number of each wrong line, and the reason.
        end: The last line of the error.

    Raises:
        CommandError: There are problems. It contains the first ten of them as ``FILE:LINE: reason``.
    """
    if problems:
        lines = [f"{path}:{line}: {reason}" for line, reason in problems[:_SHOWN_PROBLEMS]]
        hidden = len(problems) - len(lines)
        raise CommandError(*lines, *([f"... and {hidden} more lines"] if hidden else []), end)


class _WrongLine(Exception):
    """The reason why a line cannot be used."""


def _refuse_constant(name: str) -> NoReturn:
    raise _WrongLine(f"{name} is not JSON; numbers must be finite")


def _unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _WrongLine(f"the key {_excerpt(key)} occurs twice")
        found[key] = value
    return found


def _parse_object(line: bytes) -> Dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _WrongLine(f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise _WrongLine(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise _WrongLine(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _WrongLine(f"must be an object, not {_excerpt(value)}")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _WrongLine(
            f"it contains the lone surrogate {error.object[error.start]!r}, which is not a character"
        ) from None
    return value


def _excerpt(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _parse_record(number: int, value: Dict[str, Any], loss: str) -> Record:
    kinds = [keys for keys in _PARSERS if any(key in value for key in keys)]
    if not kinds:
        found = ", ".join(map(_excerpt, value)) or "no keys"
        raise _WrongLine(
            'needs the keys "prompt" and "completion", or "messages", or "prompt_tokens" and'
            f' "completion_tokens"; it has {found}'
        )
    if len(kinds) > 1:
        raise _WrongLine(f'has both "{kinds[0][0]}" and "{kinds[1][0]}": a line may have one of them')
    [keys] = kinds
    if loss in SAMPLED_LOSSES:
        keys = ("prompt_tokens", "completion_tokens", "logprobs", "advantages")
    for key in keys:
        if key not in value or (loss in SAMPLED_LOSSES and value[key] is None):
            why = f", which --loss {loss} needs" if loss in SAMPLED_LOSSES else ""
            raise _WrongLine(f'the key "{key}" is missing{why}')
    return _PARSERS[kinds[0]](number, value)


def _require_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _WrongLine(f"{name} must be text, not {_excerpt(value)}")
    return value


def _parse_completion(number: int, value: Dict[str, Any]) -> Completion:
    prompt, completion = (
        _require_text(value["prompt"], '"prompt"'),
        _require_text(value["completion"], '"completion"'),
    )
    if not completion:
        raise _WrongLine('"completion" is empty, so the line has nothing to learn')
    return Completion(number, prompt, completion)


def _parse_conversation(number: int, value: Dict[str, Any]) -> Conversation:
    messages, tools = value["messages"], value.get("tools")
    if not isinstance(messages, list) or not messages:
        raise _WrongLine(f'"messages" must be a list with at least one message, not {_excerpt(messages)}')
    replies = 0
    for index, message in enumerate(messages):
        name = f'"messages"[{index}]'
        if not isinstance(message, dict):
            raise _WrongLine(f"{name} must be an object, not {_excerpt(message)}")
        for key in ("role", "content"):
            if key not in message:
                raise _WrongLine(f'{name} has no "{key}"')
            _require_text(message[key], f'{name}["{key}"]')
        if not message["role"]:
            raise _WrongLine(f'{name}["role"] is empty')
        replies += message["role"] == "assistant"
    if not replies:
        raise _WrongLine('no message has the role "assistant", so the line has nothing to learn')
    if tools is not None and not isinstance(tools, list):
        raise _WrongLine(f'"tools" must be a list, not {_excerpt(tools)}')
    return Conversation(number, messages, tools)


def _require_tokens(value: Any, name: str) -> List[int]:
    if not isinstance(value, list) or not value:
        raise _WrongLine(f"{name} must be a list with at least one token, not {_excerpt(value)}")
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 2**31:
            raise _WrongLine(f"{name}[{index}] must be a token id, not {_excerpt(token)}")
    return value


def _require_numbers(value: Any, name: str, count: int) -> List[float]:
    if not isinstance(value, list) or len(value) != count:
        found = f"{len(value)}" if isinstance(value, list) else _excerpt(value)
        raise _WrongLine(f"{name} must be a list of {count} numbers, one per completion token, not {found}")
    for index, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not _is_finite(number):
            raise _WrongLine(f"{name}[{index}] must be a finite number, not {_excerpt(number)}")
    return [float(number) for number in value]


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer that is too large for a float
        return False


def _parse_sampled(number: int, value: Dict[str, Any]) -> Sampled:
    prompt = _require_tokens(value["prompt_tokens"], '"prompt_tokens"')
    completion = _require_tokens(value["completion_tokens"], '"completion_tokens"')
    logprobs, advantages = value.get("logprobs"), value.get("advantages")
    if logprobs is not None:
        logprobs = _require_numbers(logprobs, '"logprobs"', len(completion))
    if advantages is not None:
        if isinstance(advantages, (int, float)):
            advantages = [advantages] * len(completion)
        advantages = _require_numbers(advantages, '"advantages"', len(completion))
    return Sampled(number, prompt, completion, logprobs, advantages)


#: The parser of each kind of line, by the keys that the line must have.
_PARSERS: Dict[Tuple[str, ...], Callable[[int, Dict[str, Any]], Record]] = {
    ("prompt", "completion"): _parse_completion,
    ("messages",): _parse_conversation,
    ("prompt_tokens", "completion_tokens"): _parse_sampled,
}
