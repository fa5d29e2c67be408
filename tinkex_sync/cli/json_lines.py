"""Parse JSON lines strictly, and report all wrong lines of a file in one error."""

from __future__ import annotations

import json
from typing import Any, Collection, Dict, FrozenSet, List, NoReturn, Optional, Tuple

from .output import CommandError

__all__ = [
    "LineProblems", "WrongLineError", "excerpt", "is_blank", "parse_object", "require_known_keys",
    "require_tokens", "split_names",
]  # fmt: skip

#: The largest number of wrong lines in one error.
_SHOWN_PROBLEMS = 10
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class WrongLineError(ValueError):
    """The reason why a line cannot be used."""


class LineProblems:
    """The wrong lines of one file. Only the first ten reasons are kept. Used by one thread.

    Args:
        file: The name of the file in messages.
        end: The last line of the error.
    """

    def __init__(self, file: str, end: str) -> None:
        self._file = file
        self._end = end
        self._shown: List[str] = []
        self._count = 0

    def add(self, line: int, reason: object) -> None:
        """Add a wrong line.

        Args:
            line: Its number, from 1.
            reason: Why it cannot be used.
        """
        self._count += 1
        if len(self._shown) < _SHOWN_PROBLEMS:
            self._shown.append(f"{self._file}:{line}: {reason}")

    def raise_if_any(self) -> None:
        """Raise an error if a line was added.

        Raises:
            CommandError: It contains the first ten lines as ``FILE:LINE: reason``.
        """
        if self._count:
            hidden = self._count - len(self._shown)
            more = [f"... and {hidden} more lines"] if hidden else []
            raise CommandError(*self._shown, *more, self._end)


def is_blank(line: bytes, number: int) -> bool:
    """Return whether a line contains nothing. Line 1 may contain a byte-order mark."""
    return not (line[len(_BYTE_ORDER_MARK) :] if _starts_with_mark(line, number) else line).strip()


def _starts_with_mark(line: bytes, number: int) -> bool:
    return number == 1 and line.startswith(_BYTE_ORDER_MARK)


def parse_object(line: bytes, number: int) -> Dict[str, Any]:
    """Return the object on a line.

    Args:
        line: The bytes of the line.
        number: The number of the line. Line 1 may begin with a byte-order mark.

    Raises:
        WrongLineError: The line is not one object of strict JSON, a key occurs twice, or a text has a lone surrogate.
    """
    if _starts_with_mark(line, number):
        line = line[len(_BYTE_ORDER_MARK) :]
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WrongLineError(f"not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except WrongLineError:
        raise
    except json.JSONDecodeError as error:
        raise WrongLineError(f"not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise WrongLineError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WrongLineError(f"must be an object, not {excerpt(value)}")
    # UTF-8 contains no surrogates, so only an escape can produce one.
    if "\\u" in text:
        _refuse_surrogates(value)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise WrongLineError(f"{name} is not JSON; numbers must be finite")


def _unique_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in found if keys.count(key) > 1)
        raise WrongLineError(f"the key {excerpt(repeated)} occurs twice")
    return found


def _refuse_surrogates(value: Dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise WrongLineError(
            f"it contains the lone surrogate {error.object[error.start]!r}, which is not a character"
        ) from None


def excerpt(value: Any) -> str:
    """Return a value as JSON, shortened to 40 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def require_known_keys(value: Dict[str, Any], known: Collection[str]) -> None:
    """Check that a record has no key that would be ignored.

    Raises:
        WrongLineError: It has one. The message names the key and the option that permits it.
    """
    for key in value:
        if key not in known:
            names = ", ".join(sorted(known))
            raise WrongLineError(
                f"the key {excerpt(key)} is not known here (known: {names}); remove it, or name it with --ignore-keys"
            )


def require_tokens(value: Any, name: str) -> List[int]:
    """Return ``value`` if it is a list with at least one token id.

    Args:
        name: The name of the value in messages.

    Raises:
        WrongLineError: It is not such a list.
    """
    if not isinstance(value, list) or not value:
        raise WrongLineError(f"{name} must be a list with at least one token, not {excerpt(value)}")
    for index, token in enumerate(value):
        if type(token) is not int or not 0 <= token < 2**31:
            raise WrongLineError(f"{name}[{index}] must be a token id, not {excerpt(token)}")
    return value


def split_names(names: Optional[str]) -> FrozenSet[str]:
    """Return the names of a text in which they are separated by commas."""
    return frozenset(name.strip() for name in (names or "").split(",") if name.strip())
