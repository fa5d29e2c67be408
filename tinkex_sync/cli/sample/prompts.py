"""Prompts in a JSONL file: checked whole before anything is sent, then read again one by one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Iterator, List, Optional, Tuple, Union

from ...protocol import json_wire as codec
from ..output import CommandError

__all__ = ["Prompt", "PromptFile"]

_EXAMPLE = (
    'Each line holds an object such as {"prompt": "Once upon a time"} or {"prompt": [1, 2, 3], "id": "a"}.'
)
_BOM = b"\xef\xbb\xbf"
#: No vocabulary is as large; what is larger is no token id.
_MOST = 2**31


@dataclass(frozen=True)
class Prompt:
    """One prompt: its place among the prompts, from 0."""

    index: int
    #: Text, or token ids.
    content: Union[str, List[int]]
    id: Union[None, str, int]


class PromptFile:
    """A file of prompts. Memory does not grow with its length.

    Raises:
        CommandError: it cannot be read, or a line is wrong; the text names file, line and reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        digest = hashlib.sha256()
        #: Prompts in it, and how many of them are text.
        self.count = self.texts = 0
        for prompt in self._read(digest):
            self.count += 1
            self.texts += isinstance(prompt.content, str)
        if self.count == 0:
            raise CommandError(f"{path} holds no prompt", _EXAMPLE)
        #: SHA-256 of its bytes.
        self.fingerprint = digest.hexdigest()

    def __iter__(self) -> Iterator[Prompt]:
        digest = hashlib.sha256()
        yield from self._read(digest)
        if digest.hexdigest() != self.fingerprint:
            raise CommandError(
                f"{self.path} was changed while it was being read",
                "Replies may belong to the prompts as they were: sample the new file into another output.",
            )

    def _read(self, digest: hashlib._Hash) -> Iterator[Prompt]:
        for index, (number, line) in enumerate(self._lines(digest)):
            try:
                content, name = _checked(line)
            except ValueError as error:
                raise CommandError(f"{self.path}, line {number}: {error}", _EXAMPLE) from None
            yield Prompt(index, content, name)

    def _lines(self, digest: hashlib._Hash) -> Iterator[Tuple[int, bytes]]:
        try:
            with self.path.open("rb") as file:
                _rewindable(file, self.path)
                for number, line in enumerate(file, start=1):
                    digest.update(line)
                    if number == 1 and line.startswith(_BOM):
                        line = line[len(_BOM) :]
                    if line.strip():
                        yield number, line
        except OSError as error:
            raise CommandError(
                f"cannot read {self.path}: {error.strerror}", "Give the path of a JSONL file."
            ) from None


def _rewindable(file: BinaryIO, path: Path) -> None:
    if not file.seekable():
        raise CommandError(f"{path} is no plain file", "It is read twice: save the prompts to a file first.")


def _checked(line: bytes) -> Tuple[Union[str, List[int]], Union[None, str, int]]:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        found = codec.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"not an object but {_shown(found)}")
    if "prompt" not in found:
        raise ValueError(f'no "prompt" in it, only {", ".join(map(repr, found)) or "nothing"}')
    return _content(found["prompt"]), _id(found.get("id"))


def _content(value: object) -> Union[str, List[int]]:
    if isinstance(value, str):
        if not value:
            raise ValueError('"prompt" is empty')
        if not value.isascii() and any("\ud800" <= mark <= "\udfff" for mark in value):
            raise ValueError('"prompt" holds half a surrogate pair, which is no character')
        return value
    if isinstance(value, list):
        if not value:
            raise ValueError('"prompt" is empty')
        for place, token in enumerate(value):
            if type(token) is not int or not 0 <= token < _MOST:
                raise ValueError(f'"prompt" has {_shown(token)} at place {place}, which is no token id')
        return value
    raise ValueError(f'"prompt" is {_shown(value)}: it must be text or a list of token ids')


def _id(value: object) -> Union[None, str, int]:
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    raise ValueError(f'"id" is {_shown(value)}: it must be text or a whole number')


def _shown(value: Optional[object]) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
