"""Reading request bodies: strict JSON, and fields by name with errors that say which and why."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Type, TypeVar

import orjson

__all__ = ["Body", "Refusal", "decode", "encode"]

T = TypeVar("T")

_NAMES: Dict[type, str] = {str: "a string", int: "an integer", bool: "true or false", list: "a list"}


class Refusal(Exception):
    """The request is answered with this status and ``{"detail": ...}`` (plus ``extra`` keys and headers)."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        extra: Optional[Dict[str, Any]] = None,
        headers: Optional[Dict[str, str]] = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = extra or {}
        self.headers = headers or {}


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Body:
    """A JSON object of a request, with the path to it inside the body for messages."""

    def __init__(self, raw: Any, path: str = "") -> None:
        if not isinstance(raw, dict):
            raise Refusal(422, f"{path or 'body'}: must be an object, not {_show(raw)}")
        self.raw: Dict[str, Any] = raw
        self._prefix = f"{path}." if path else ""

    def bad(self, name: str, problem: str) -> Refusal:
        """The refusal (422) of field ``name``."""
        return Refusal(422, f"{self._prefix}{name}: {problem}")

    def _get(self, name: str, kind: Type[T]) -> Optional[T]:
        value = self.raw.get(name)
        if value is None:
            return None
        # bool is an int to Python, and 1 is no bool to JSON.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.bad(name, f"must be {_NAMES[kind]}, not {_show(value)}")
        return value

    def _need(self, name: str, kind: Type[T]) -> T:
        value = self._get(name, kind)
        if value is None:
            raise self.bad(name, f"is missing; it must be {_NAMES[kind]}")
        return value

    def text(self, name: str) -> str:
        return self._need(name, str)

    def optional_text(self, name: str) -> Optional[str]:
        return self._get(name, str)

    def integer(self, name: str, minimum: int = 0) -> int:
        value = self._need(name, int)
        if value < minimum:
            raise self.bad(name, f"must be at least {minimum}, not {value}")
        return value

    def optional_integer(self, name: str, minimum: Optional[int] = 0) -> Optional[int]:
        value = self._get(name, int)
        if value is not None and minimum is not None and value < minimum:
            raise self.bad(name, f"must be at least {minimum}, not {value}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, bool)
        return default if value is None else value

    def items(self, name: str) -> List[Any]:
        """A list that is not empty."""
        value: List[Any] = self._need(name, list)
        if not value:
            raise self.bad(name, "is empty")
        return value

    def inner(self, name: str) -> Body:
        """The object under ``name``."""
        if self.raw.get(name) is None:
            raise self.bad(name, "is missing; it must be an object")
        return Body(self.raw[name], f"{self._prefix}{name}")

    def optional_inner(self, name: str) -> Body:
        """The object under ``name``, empty where it is absent or null."""
        return Body({} if self.raw.get(name) is None else self.raw[name], f"{self._prefix}{name}")


def decode(data: bytes) -> Body:
    """The JSON object of a request body.

    Raises:
        Refusal: 400 for what is not JSON (NaN and Infinity are not), 422 for JSON that is no object.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is not valid JSON: {error}") from None
    return Body(raw)


def encode(answer: Any) -> bytes:
    """JSON of an answer; numpy arrays and scalars may be anywhere in it."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
