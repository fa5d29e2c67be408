"""Training data as it stands in a file, checked whole before anything is sent."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple, Union

from ..files import read_text
from ..output import CommandError

__all__ = ["SAMPLED_LOSSES", "Completion", "Conversation", "Data", "Record", "Sampled", "read_data", "refuse"]

#: Losses that weigh sampled tokens; their lines carry tokens, log probabilities and advantages.
SAMPLED_LOSSES = ("importance_sampling", "ppo", "cispo")

#: Files with these endings are JSON lines, all others text.
_JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
#: Problems that are told one by one.
_TOLD = 10


@dataclass(frozen=True)
class Completion:
    """A line with "prompt" and "completion"."""

    line: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class Conversation:
    """A line with "messages", each a dict with "role" and "content"."""

    line: int
    messages: List[Dict[str, Any]]
    tools: Optional[List[Any]]


@dataclass(frozen=True)
class Sampled:
    """A line with "prompt_tokens" and "completion_tokens"; the rest, if any, is per completion token."""

    line: int
    prompt: List[int]
    completion: List[int]
    logprobs: Optional[List[float]]
    advantages: Optional[List[float]]


Record = Union[Completion, Conversation, Sampled]


@dataclass(frozen=True)
class Data:
    """A file's content: ``text``, or ``records``."""

    path: Path
    #: SHA-256 of the content, in hex.
    sha256: str
    text: Optional[str]
    records: List[Record]


def read_data(path: Path, kind: str, loss: str) -> Data:
    """Read and check a file.

    In JSON lines, blank lines are skipped (and counted), lines may end in CRLF, a byte-order mark may come first,
    and keys that are not ours are ignored.

    Args:
        kind: "text", "jsonl", or "auto", by the file's ending.
        loss: The loss the data is for.

    Raises:
        CommandError: the file cannot be read, or lines of it are wrong: each as ``FILE:LINE: reason``.
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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", "Give the path of a file.") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CommandError(f"{path}:1: this is UTF-16", "Save the file as UTF-8.")
    records: List[Record] = []
    problems: List[Tuple[int, str]] = []
    # Not splitlines, which takes other characters for ends of lines too.
    for number, line in enumerate(content.split(b"\n"), start=1):
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        if line.strip():
            try:
                records.append(_record(number, _parsed(line), loss))
            except _WrongLine as wrong:
                problems.append((number, str(wrong)))
    refuse(path, problems, "Nothing was sent.")
    if not records:
        raise CommandError(f"{path} is empty", "Give a file with one JSON object a line.")
    return Data(path, hashlib.sha256(content).hexdigest(), None, records)


def refuse(path: Path, problems: List[Tuple[int, str]], end: str) -> None:
    """Raises: CommandError: there are problems; it tells line and reason of the first ten, then ``end``."""
    if problems:
        told = [f"{path}:{line}: {reason}" for line, reason in problems]
        more = [f"... and {len(told) - _TOLD} more lines"] if len(told) > _TOLD else []
        raise CommandError(told[0], *told[1:_TOLD], *more, end)


class _WrongLine(Exception):
    """Why a line cannot be used."""


def _constant(name: str) -> NoReturn:
    raise _WrongLine(f"{name} is not JSON; numbers must be finite")


def _once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _WrongLine(f"the key {_shown(key)} is there twice")
        found[key] = value
    return found


def _parsed(line: bytes) -> Dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _WrongLine(f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from None
    try:
        value = json.loads(text, parse_constant=_constant, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise _WrongLine(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise _WrongLine(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise _WrongLine(f"must be an object, not {_shown(value)}")
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _WrongLine(
            f"holds the lone surrogate {error.object[error.start]!r}, which no text can hold"
        ) from None
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _record(number: int, value: Dict[str, Any], loss: str) -> Record:
    kinds = [keys for keys in _KINDS if any(key in value for key in keys)]
    if not kinds:
        has = ", ".join(map(_shown, value)) or "none at all"
        raise _WrongLine(
            'needs the keys "prompt" and "completion", or "messages", or "prompt_tokens" and'
            f' "completion_tokens"; it has {has}'
        )
    if len(kinds) > 1:
        raise _WrongLine(f'has both "{kinds[0][0]}" and "{kinds[1][0]}": a line is one or the other')
    [keys] = kinds
    if loss in SAMPLED_LOSSES:
        keys = ("prompt_tokens", "completion_tokens", "logprobs", "advantages")
    for key in keys:
        if key not in value or (loss in SAMPLED_LOSSES and value[key] is None):
            why = f", which --loss {loss} needs" if loss in SAMPLED_LOSSES else ""
            raise _WrongLine(f'the key "{key}" is missing{why}')
    return _KINDS[kinds[0]](number, value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _WrongLine(f"{name} must be a text, not {_shown(value)}")
    return value


def _completion(number: int, value: Dict[str, Any]) -> Completion:
    prompt, completion = _text(value["prompt"], '"prompt"'), _text(value["completion"], '"completion"')
    if not completion:
        raise _WrongLine('"completion" is empty, so there is nothing to learn')
    return Completion(number, prompt, completion)


def _conversation(number: int, value: Dict[str, Any]) -> Conversation:
    messages, tools = value["messages"], value.get("tools")
    if not isinstance(messages, list) or not messages:
        raise _WrongLine(f'"messages" must be a list with at least one message, not {_shown(messages)}')
    replies = 0
    for index, message in enumerate(messages):
        name = f'"messages"[{index}]'
        if not isinstance(message, dict):
            raise _WrongLine(f"{name} must be an object, not {_shown(message)}")
        for key in ("role", "content"):
            if key not in message:
                raise _WrongLine(f'{name} has no "{key}"')
            _text(message[key], f'{name}["{key}"]')
        if not message["role"]:
            raise _WrongLine(f'{name}["role"] is empty')
        replies += message["role"] == "assistant"
    if not replies:
        raise _WrongLine('no message has the role "assistant", so there is nothing to learn')
    if tools is not None and not isinstance(tools, list):
        raise _WrongLine(f'"tools" must be a list, not {_shown(tools)}')
    return Conversation(number, messages, tools)


def _tokens(value: Any, name: str) -> List[int]:
    if not isinstance(value, list) or not value:
        raise _WrongLine(f"{name} must be a list with at least one token, not {_shown(value)}")
    for index, token in enumerate(value):
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < 2**31:
            raise _WrongLine(f"{name}[{index}] must be a token, not {_shown(token)}")
    return value


def _numbers(value: Any, name: str, count: int) -> List[float]:
    if not isinstance(value, list) or len(value) != count:
        has = f"{len(value)}" if isinstance(value, list) else _shown(value)
        raise _WrongLine(f"{name} must be a list of {count} numbers, one a completion token, not {has}")
    for index, number in enumerate(value):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not _finite(number):
            raise _WrongLine(f"{name}[{index}] must be a finite number, not {_shown(number)}")
    return [float(number) for number in value]


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number no float can hold
        return False


def _sampled(number: int, value: Dict[str, Any]) -> Sampled:
    prompt = _tokens(value["prompt_tokens"], '"prompt_tokens"')
    completion = _tokens(value["completion_tokens"], '"completion_tokens"')
    logprobs, advantages = value.get("logprobs"), value.get("advantages")
    if logprobs is not None:
        logprobs = _numbers(logprobs, '"logprobs"', len(completion))
    if advantages is not None:
        if isinstance(advantages, (int, float)):
            advantages = [advantages] * len(completion)
        advantages = _numbers(advantages, '"advantages"', len(completion))
    return Sampled(number, prompt, completion, logprobs, advantages)


#: What a line may be, by the keys it must have.
_KINDS: Dict[Tuple[str, ...], Callable[[int, Dict[str, Any]], Record]] = {
    ("prompt", "completion"): _completion,
    ("messages",): _conversation,
    ("prompt_tokens", "completion_tokens"): _sampled,
}
