"""Short representations of values for error messages."""

from __future__ import annotations

import reprlib
from typing import Any

__all__ = ["shortened"]

_LENGTH = 80
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _LENGTH


def shortened(value: Any) -> str:
    """Return ``repr(value)`` with at most 80 characters.

    The cost does not depend on the number of elements of ``value``, unlike that of ``f"{value!r:.80}"``.
    """
    text = _REPR.repr(value)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."
