"""JSON bodies: strict decoding of requests, typed access to their fields, and encoding of responses."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import IO, Any, Dict, List, Optional, Tuple, Type, TypeVar

import orjson

from .shortened import shortened

__all__ = ["MAX_BODY", "Body", "RejectedRequest", "JsonObject", "decode_body", "decompress", "encode_json"]

#: The most bytes of a request body, before and after decompression.
MAX_BODY = 256 * 1024 * 1024
#: Bytes that are decompressed at a time.
_PART_SIZE = 1024 * 1024

T = TypeVar("T")
JsonObject = Dict[str, Any]

_TYPE_NAMES: Dict[type, str] = {str: "a string", int: "an integer", bool: "true or false", list: "a list"}


class RejectedRequest(Exception):
    """Ends the handling of a request with an error response.

    Args:
        status: HTTP status code.
        detail: Value of ``detail`` in the JSON body.
        extra: Further keys of the body.
        headers: Further headers of the response.
    """

    def __init__(
        self, status: int, detail: str, *, extra: Optional[JsonObject] = None, headers: Optional[Dict[str, str]] = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.extra = extra or {}
        self.headers = headers or {}


class Body:
    """An object in the JSON body of a request. It has its path inside the body, for error messages.

    Every accessor raises :class:`RejectedRequest` (422) if the field has the wrong type or is out of range. A field
    that is null counts as absent.

    Args:
        raw: The decoded object.
        path: The path of the object inside the body, with dots. Default: the body itself.
    """

    def __init__(self, raw: Any, path: str = "") -> None:
        if not isinstance(raw, dict):
            raise RejectedRequest(422, f"{path or 'body'}: must be an object, not {shortened(raw)}")
        self.raw: JsonObject = raw
        self._prefix = f"{path}." if path else ""

    def field_error(self, name: str, problem: str) -> RejectedRequest:
        """Make the error response (422) for the field ``name``."""
        return RejectedRequest(422, f"{self._prefix}{name}: {problem}")

    def _optional(self, name: str, kind: Type[T]) -> Optional[T]:
        value = self.raw.get(name)
        if value is None:
            return None
        # In Python bool is a subclass of int. In JSON they are different types.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.field_error(name, f"must be {_TYPE_NAMES[kind]}, not {shortened(value)}")
        return value

    def _required(self, name: str, kind: Type[T]) -> T:
        value = self._optional(name, kind)
        if value is None:
            raise self.field_error(name, f"is missing; it must be {_TYPE_NAMES[kind]}")
        return value

    def text(self, name: str) -> str:
        """Return a required string."""
        return self._required(name, str)

    def optional_text(self, name: str) -> Optional[str]:
        """Return a string, or None if it is absent."""
        return self._optional(name, str)

    def integer(self, name: str) -> int:
        """Return a required integer of at least 0."""
        value = self._required(name, int)
        self._check_minimum(name, value, 0)
        return value

    def optional_integer(self, name: str, minimum: Optional[int] = 0) -> Optional[int]:
        """Return an integer of at least ``minimum`` (None: no limit), or None if it is absent."""
        value = self._optional(name, int)
        if value is not None and minimum is not None:
            self._check_minimum(name, value, minimum)
        return value

    def _check_minimum(self, name: str, value: int, minimum: int) -> None:
        if value < minimum:
            raise self.field_error(name, f"must be at least {minimum}, not {value}")

    def flag(self, name: str, default: bool) -> bool:
        """Return a boolean, or ``default`` if it is absent."""
        value = self._optional(name, bool)
        return default if value is None else value

    def non_empty_list(self, name: str) -> List[Any]:
        """Return a required list with at least one element."""
        value: List[Any] = self._required(name, list)
        if not value:
            raise self.field_error(name, "is empty")
        return value

    def strings(self, name: str) -> List[str]:
        """Return a list of strings, or an empty list if it is absent."""
        value = self.raw.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.field_error(name, f"must be a list of strings, not {shortened(value)}")
        return value

    def inner(self, name: str) -> Body:
        """Return a required object."""
        if self.raw.get(name) is None:
            raise self.field_error(name, "is missing; it must be an object")
        return Body(self.raw[name], f"{self._prefix}{name}")

    def optional_inner(self, name: str) -> Body:
        """Return an object, or an empty one if it is absent."""
        return Body({} if self.raw.get(name) is None else self.raw[name], f"{self._prefix}{name}")


def decompress(data: bytes, encoding: str) -> bytes:
    """Decompress a body.

    Args:
        data: The bytes of the body.
        encoding: The header ``Content-Encoding``, or "".

    Returns:
        The decompressed bytes. ``data`` itself if it is not compressed.

    Raises:
        RejectedRequest: 415 if the encoding is not supported, 400 if the body is damaged, 413 if it is too large.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return data
    decoders = {"gzip": _gzip_reader, "zstd": _zstd_reader}
    if encoding not in decoders:
        raise RejectedRequest(415, f"Content-Encoding {encoding[:80]!r} is not supported; use zstd, gzip or none")
    reader, errors = decoders[encoding](data)
    parts, size = [], 0
    try:
        with reader:
            for part in iter(lambda: reader.read(_PART_SIZE), b""):
                parts.append(part)
                size += len(part)
                if size > MAX_BODY:
                    raise RejectedRequest(413, f"the decompressed body has more than {MAX_BODY} bytes")
    except errors as error:
        raise RejectedRequest(400, f"the body is not valid {encoding}: {error}") from None
    return b"".join(parts)


#: A stream of decompressed bytes, and the exceptions that it raises if the body is damaged.
_Reader = Tuple[IO[bytes], Tuple[Type[Exception], ...]]


def _gzip_reader(data: bytes) -> _Reader:
    return gzip.GzipFile(fileobj=io.BytesIO(data)), (OSError, EOFError, zlib.error)  # type: ignore[return-value]


def _zstd_reader(data: bytes) -> _Reader:
    try:
        import zstandard
    except ImportError:
        raise RejectedRequest(415, "Content-Encoding 'zstd' needs zstandard on this server") from None
    # The window of a frame is memory too, and a frame declares its size itself.
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_BODY)
    return decompressor.stream_reader(data), (zstandard.ZstdError,)


def decode_body(data: bytes) -> Body:
    """Decode the JSON body of a request.

    Args:
        data: The bytes of the body.

    Returns:
        The body.

    Raises:
        RejectedRequest: 400 if ``data`` is not valid JSON (NaN and Infinity are not), 422 if it is not an object.
    """
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RejectedRequest(400, f"the body is not valid JSON: {error}") from None
    return Body(raw)


def encode_json(value: Any) -> bytes:
    """Encode the body of a response. It may contain numpy arrays and scalars."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
