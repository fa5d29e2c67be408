"""Read prompts from JSON lines. All lines are checked first, then read again prompt by prompt."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Callable, Collection, Dict, Iterator, List, Mapping, Set, Tuple, Union

from ..chats import Chat, parse_chat
from ..files import open_input, reading_errors, shown_name
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

__all__ = ["Prompt", "PromptFile"]

_EXAMPLE = (
    'Each line is an object such as {"prompt": "Once upon a time"} or {"prompt": [1, 2, 3], "id": "a"}'
    ' or {"messages": [{"role": "user", "content": "Hello"}]}.'
)
_END = f"Nothing was sent. {_EXAMPLE}"


@dataclass(frozen=True)
class Prompt:
    """One prompt of a file."""

    #: The position among the prompts of the file, from 0.
    index: int
    #: Text, token ids, or a chat for which a response is sampled.
    content: Union[str, List[int], Chat]
    id: Union[None, str, int]
    #: "num_samples" and fields of ``SamplingParams`` that only this prompt has.
    options: Mapping[str, Any] = field(default_factory=dict)


class PromptFile:
    """A file of prompts. Iterating over it reads the file again.

    The memory does not grow with the number of prompts, except by about 100 bytes for each "id" in the constructor.
    Used by one thread. It is a context manager that closes the file.

    Args:
        path: JSON lines, ``-`` for standard input. They may be compressed with gzip. Blank lines are skipped.
        ignored: Keys of records and messages that are not read. Other unknown keys are refused.

    Raises:
        CommandError: The file cannot be read, or lines are wrong, each as ``FILE:LINE: reason``.
    """

    def __init__(self, path: Path, ignored: Collection[str] = ()) -> None:
        self.path = path
        #: The path in messages.
        self.name = shown_name(path)
        self._ignored = ignored
        #: Number of prompts.
        self.count = 0
        #: Whether a prompt is a text or a chat, which a tokenizer must encode.
        self.needs_tokenizer = False
        self._has_chats = False
        self._file: BinaryIO = open_input(path)
        try:
            #: SHA-256 of the content, in hexadecimal.
            self.fingerprint: str = self._check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PromptFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __iter__(self) -> Iterator[Prompt]:
        """Yield the prompts in the order of the file.

        Raises:
            CommandError: The file was changed after it was checked.
        """
        digest = hashlib.sha256()
        try:
            for index, (number, line) in enumerate(self._lines(digest)):
                yield self._parse(index, number, line)
        except WrongLineError:
            raise self._changed_error() from None
        if digest.hexdigest() != self.fingerprint:
            raise self._changed_error()

    def check_chats(self, check: Callable[[Chat], None]) -> None:
        """Check all chats with a function that raises ValueError.

        Raises:
            CommandError: Chats were refused, each as ``FILE:LINE: reason``.
        """
        if not self._has_chats:
            return
        problems = LineProblems(self.name, "Nothing was sampled.")
        for index, (number, line) in enumerate(self._lines(hashlib.sha256())):
            try:
                content = self._parse(index, number, line).content
                if isinstance(content, Chat):
                    check(content)
            except ValueError as error:
                problems.add(number, error)
        problems.raise_if_any()

    def _check(self) -> str:
        """Check all lines and return the fingerprint."""
        digest, problems, ids = hashlib.sha256(), LineProblems(self.name, _END), _Ids()
        for index, (number, line) in enumerate(self._lines(digest)):
            self.count += 1
            try:
                prompt = self._parse(index, number, line)
                ids.add(prompt.id)
            except WrongLineError as error:
                problems.add(number, error)
                continue
            self.needs_tokenizer |= not isinstance(prompt.content, list)
            self._has_chats |= isinstance(prompt.content, Chat)
        problems.raise_if_any()
        if self.count == 0:
            raise CommandError(f"{self.name} contains no prompt", _EXAMPLE)
        return digest.hexdigest()

    def _lines(self, digest: Any) -> Iterator[Tuple[int, bytes]]:
        """Yield the number and the bytes of each line that is not blank, and add all lines to ``digest``."""
        with reading_errors(self.path):
            self._file.seek(0)
            for number, line in enumerate(self._file, start=1):
                digest.update(line)
                if not is_blank(line, number):
                    yield number, line

    def _parse(self, index: int, number: int, line: bytes) -> Prompt:
        value = {key: inner for key, inner in parse_object(line, number).items() if key not in self._ignored}
        content = _parse_content(value, self._ignored)
        content_keys = ("messages", "tools") if isinstance(content, Chat) else ("prompt",)
        require_known_keys(value, {*content_keys, "id", *_OPTIONS})
        options = {name: inner for name, inner in value.items() if name in _OPTIONS and inner is not None}
        for name, inner in options.items():
            is_valid, expected = _OPTIONS[name]
            if not is_valid(inner):
                raise WrongLineError(f'"{name}" must be {expected}, not {excerpt(inner)}')
        return Prompt(index, content, _parse_id(value.get("id")), options)

    def _changed_error(self) -> CommandError:
        return CommandError(
            f"{self.name} was changed while it was read",
            "Responses may belong to the earlier prompts: sample the new file into another output.",
        )


class _Ids:
    """The ids of earlier lines, as digests of 16 bytes."""

    def __init__(self) -> None:
        self._digests: Set[bytes] = set()

    def add(self, name: Union[None, str, int]) -> None:
        if name is None:
            return
        digest = hashlib.blake2b(repr(name).encode("utf-8"), digest_size=16).digest()
        if digest in self._digests:
            raise WrongLineError(f'an earlier line has the same "id", {excerpt(name)}')
        self._digests.add(digest)


def _parse_content(value: Dict[str, Any], ignored: Collection[str]) -> Union[str, List[int], Chat]:
    if "prompt" in value and "messages" in value:
        raise WrongLineError('has both "prompt" and "messages": a line may have one of them')
    if "messages" in value:
        chat = parse_chat(value, ignored)
        if chat.messages[-1]["role"] == "assistant":
            raise WrongLineError(
                'the last message has the role "assistant", so there is no message to respond to: remove it'
            )
        return chat
    if "prompt" not in value:
        found = ", ".join(map(excerpt, value)) or "no keys"
        raise WrongLineError(f'the key "prompt" or "messages" is missing; it has {found}')
    content = value["prompt"]
    if content in ("", []):
        raise WrongLineError('"prompt" is empty')
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return require_tokens(content, '"prompt"')
    raise WrongLineError(f'"prompt" must be text or a list of token ids, not {excerpt(content)}')


def _parse_id(value: object) -> Union[None, str, int]:
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    raise WrongLineError(f'"id" must be text or an integer, not {excerpt(value)}')


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_positive(value: Any) -> bool:
    return _is_integer(value) and value > 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_stop(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and (all(map(_is_text, value)) or all(map(_is_integer, value)))
    return _is_text(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


#: The options that a line may have, each with its check and the description of its values.
_OPTIONS: Dict[str, Tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_is_positive, "a whole number of at least 1"),
    "num_samples": (_is_positive, "a whole number of at least 1"),
    "seed": (_is_integer, "a whole number"),
    "stop": (_is_stop, "a text, a list of texts, or a list of token ids"),
    "temperature": (_is_number, "a finite number of at least 0"),
    "top_k": (lambda value: _is_positive(value) or value == -1, "-1 or a whole number of at least 1"),
    "top_p": (lambda value: _is_number(value) and 0 < value <= 1, "a number above 0 and at most 1"),
}
