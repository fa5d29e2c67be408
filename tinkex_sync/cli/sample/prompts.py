"""Read prompts from a JSONL file. The whole file is checked first, then read again prompt by prompt."""

from __future__ import annotations

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple, Union

from ...protocol import json_wire
from ..output import CommandError

__all__ = ["Prompt", "PromptFile"]

_EXAMPLE = (
    'Each line is an object such as {"prompt": "Once upon a time"} or {"prompt": [1, 2, 3], "id": "a"}.'
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Token ids are smaller than this. No vocabulary is as large.
_TOKEN_LIMIT = 2**31


@dataclass(frozen=True)
class Prompt:
    """One prompt of a file."""

    #: The position among the prompts of the file, from 0.
    index: int
    #: Text, or token ids.
    content: Union[str, List[int]]
    id: Union[None, str, int]


class PromptFile:
    """A file of prompts. Iterating over it reads the file again; the memory does not grow with its length.

    Args:
        path: A JSONL file. Blank lines are skipped.

    Raises:
        CommandError: The file cannot be read, or a line is wrong. The text names file, line and reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        digest = hashlib.sha256()
        #: Number of prompts.
        self.count = 0
        #: Number of prompts that are text.
        self.text_count = 0
        for prompt in self._read(digest):
            self.count += 1
            self.text_count += isinstance(prompt.content, str)
        if self.count == 0:
            raise CommandError(f"{path} contains no prompt", _EXAMPLE)
        #: SHA-256 of the bytes, in hexadecimal.
        self.fingerprint: str = digest.hexdigest()

    def __iter__(self) -> Iterator[Prompt]:
        """Yield the prompts in the order of the file.

        Raises:
            CommandError: The file was changed after it was checked.
        """
        digest = hashlib.sha256()
        yield from self._read(digest)
        if digest.hexdigest() != self.fingerprint:
            raise CommandError(
                f"{self.path} was changed while it was read",
                "Replies may belong to the earlier prompts: sample the new file into another output.",
            )

    def _read(self, digest: Any) -> Iterator[Prompt]:
        for index, (number, line) in enumerate(self._lines(digest)):
            try:
                content, name = _parse_line(line)
            except ValueError as error:
                raise CommandError(f"{self.path}, line {number}: {error}", _EXAMPLE) from None
            yield Prompt(index, content, name)

    def _lines(self, digest: Any) -> Iterator[Tuple[int, bytes]]:
        """Yield the number and the bytes of each line that is not blank, and add all lines to ``digest``."""
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise CommandError(
                    f"{self.path} is not a plain file", "It is read twice: save the prompts to a file first."
                )
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    digest.update(line)
                    if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                        line = line[len(_BYTE_ORDER_MARK) :]
                    if line.strip():
                        yield number, line
        except OSError as error:
            raise CommandError(
                f"cannot read {self.path}: {error.strerror}", "Give the path of a JSONL file."
            ) from None


def _parse_line(line: bytes) -> Tuple[Union[str, List[int]], Union[None, str, int]]:
    """Return the content and the id of the prompt on a line.

    Raises:
        ValueError: The line is not a prompt.
    """
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        value = json_wire.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, not {_excerpt(value)}")
    if "prompt" not in value:
        raise ValueError(f'the key "prompt" is missing; it has {", ".join(map(repr, value)) or "no keys"}')
    return _parse_content(value["prompt"]), _parse_id(value.get("id"))


def _parse_content(value: object) -> Union[str, List[int]]:
    if isinstance(value, str):
        if not value:
            raise ValueError('"prompt" is empty')
        if not value.isascii() and any("\ud800" <= mark <= "\udfff" for mark in value):
            raise ValueError('"prompt" contains a lone surrogate, which is not a character')
        return value
    if isinstance(value, list):
        if not value:
            raise ValueError('"prompt" is empty')
        for position, token in enumerate(value):
            if type(token) is not int or not 0 <= token < _TOKEN_LIMIT:
                raise ValueError(f'"prompt"[{position}] must be a token id, not {_excerpt(token)}')
        return value
    raise ValueError(f'"prompt" must be text or a list of token ids, not {_excerpt(value)}')


def _parse_id(value: object) -> Union[None, str, int]:
    if value is None or isinstance(value, str) or type(value) is int:
        return value
    raise ValueError(f'"id" must be text or an integer, not {_excerpt(value)}')


def _excerpt(value: Optional[object]) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
