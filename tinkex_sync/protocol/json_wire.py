"""Encoding and decoding of bodies as JSON, by orjson.

:func:`encode` encodes any body, :func:`encode_forward_backward` a chunk of a batch. :func:`check_finite` checks a batch
before any of it is sent. :func:`decode` decodes responses.

orjson writes NaN and infinities as null instead of raising an error. Only bodies that contain ``null`` are searched for
them, so for other bodies the check costs one search for four bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from typing import Any, List, Mapping, Sequence

import orjson

from ..errors import APIResponseValidationError
from ..types import Datum, ForwardBackwardInput, ForwardBackwardRequest, ForwardRequest, TensorData
from ..types.wire import Wire

CONTENT_TYPE = "application/json"

#: Wire types are encoded by their own method, not by orjson's rule for dataclasses.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS
#: Levels of lists and objects in a response at most.
_MOST_LEVELS = 64
_TOO_DEEP = f"the JSON is nested more than {_MOST_LEVELS} levels deep"
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
#: Bytes of a response that are kept as text in an error.
LONGEST_ERROR_BODY = 1 << 20


def encode(body: Any) -> bytes:
    """Encode a body as compact UTF-8 JSON, with keys in their order.

    Args:
        body: A wire type, or a JSON value that may contain wire types and arrays.

    Raises:
        ValueError: A number is NaN or infinite, or a string is not Unicode text; the message has its place.
        TypeError: A value has no JSON form.
    """
    content = _dumps(body)
    if b"null" in content:
        _refuse_non_finite(body, "")
    return content


def encode_forward_backward(
    operation: str, batch: ForwardBackwardInput, model_id: str, seq_id: int, first_index: int = 0
) -> bytes:
    """Encode the body of ``POST /api/v1/forward`` or ``/api/v1/forward_backward``.

    Datums are encoded one at a time, so that other threads run between them in a large batch.

    Args:
        operation: "forward" or "forward_backward".
        batch: The datums of this request, and the loss.
        first_index: Position of the first datum in the caller's batch, for errors.

    Raises:
        ValueError: A loss input is NaN or infinite; the message has datum, key and element.
    """
    pieces: List[bytes] = []
    for index, datum in enumerate(batch.data, first_index):
        piece = _dumps(datum)
        if b"null" in piece:
            _check_datum(index, datum)
        pieces.append(piece)
    request = ForwardRequest if operation == "forward" else ForwardBackwardRequest
    empty = dataclasses.replace(batch, data=[])
    return fill_first_list(encode(request(empty, model_id, seq_id)), pieces)


def fill_first_list(content: bytes, items: Sequence[bytes]) -> bytes:
    """Return an encoded body whose first list, which is empty, is filled with encoded items."""
    head, _, rest = content.partition(b"[]")
    return b"".join((head, b"[", b",".join(items), b"]", rest))


def check_finite(data: Sequence[Datum]) -> None:
    """Raise ValueError if a loss input of a batch is NaN or infinite; the message has datum, key and element."""
    for index, datum in enumerate(data):
        _check_datum(index, datum)


def _check_datum(index: int, datum: Datum) -> None:
    for key, tensor in datum.loss_fn_inputs.items():
        if not _all_finite(tensor):
            place, value = next((i, x) for i, x in enumerate(tensor.data) if not math.isfinite(x))
            raise ValueError(
                f"datum {index}: loss_fn_inputs[{key!r}][{place}] is {float(value)!r}; only finite numbers can be sent"
            )


def _all_finite(tensor: TensorData) -> bool:
    data: Any = tensor.data
    if isinstance(data, (list, tuple)):
        if not data or type(data[0]) is int:  # then all elements are ints
            return True
        # A sum of finite numbers may be infinite, so an infinite sum needs a look at every number.
        return math.isfinite(sum(data)) or all(map(math.isfinite, data))
    return data.dtype.kind != "f" or bool(sys.modules["numpy"].isfinite(data).all())


def _dumps(body: Any) -> bytes:
    # With this option orjson imports numpy at the first value that is not a JSON type.
    options = _OPTIONS | orjson.OPT_SERIALIZE_NUMPY if "numpy" in sys.modules else _OPTIONS
    try:
        return orjson.dumps(body, default=_default, option=options)
    except TypeError:
        # orjson rejects integers over 64 bits, keys that are not strings, lone surrogates and deep nesting.
        text = json.dumps(body, default=_default, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8")


def _default(value: Any) -> Any:
    if isinstance(value, Wire):
        return value.to_wire()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot be sent as JSON: {type(value).__name__} {value!r}")


def _refuse_non_finite(value: Any, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path or 'body'} is {value!r}; only finite numbers can be sent")
    elif isinstance(value, Wire) or hasattr(value, "tolist"):
        _refuse_non_finite(_default(value), path)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _refuse_non_finite(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _refuse_non_finite(inner, f"{path}[{index}]")


def loads(content: bytes) -> Any:
    """Decode JSON by orjson, or by the json module if orjson rejects it: NaN, 1e999, lone surrogates.

    A lone surrogate, which can be neither sent nor printed, is replaced by a question mark.

    Raises:
        ValueError: It is not JSON, or its lists and objects are nested more than 64 levels deep.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(content)
            if not _is_nested_too_deeply(content, value):
                value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        except RecursionError:
            raise ValueError(_TOO_DEEP) from None
    if _is_nested_too_deeply(content, value):
        raise ValueError(_TOO_DEEP)
    return value


def _has_many(content: bytes, bracket: bytes) -> bool:
    """Return whether a bracket occurs often enough for half of the levels. Finding it is faster than counting it."""
    at = content.find(bracket)
    for _ in range(_MOST_LEVELS // 2):
        if at < 0:
            return False
        at = content.find(bracket, at + 1)
    return True


def _is_nested_too_deeply(content: bytes, value: Any) -> bool:
    """Return whether a decoded body has more than ``_MOST_LEVELS`` levels, too many for ``repr``."""
    if not any(_has_many(content, bracket) for bracket in (b"[", b"{")):
        return False
    # Without looking at each number: each pass removes the innermost level.
    brackets = content.translate(None, _NOT_BRACKETS)
    for _ in range(_MOST_LEVELS):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    # There may be brackets in strings.
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in level if isinstance(one, (dict, list))]
    return bool(level)


def decode(content: bytes, content_type: str = CONTENT_TYPE, status_code: int = 200) -> Any:
    """Decode the body of a successful response; its content type is used for the error message only.

    Raises:
        APIResponseValidationError: It is not JSON; ``.body`` is its text.
    """
    try:
        return loads(content)
    except ValueError as error:
        text = content[:LONGEST_ERROR_BODY].decode("utf-8", "replace")
        if content_type.partition(";")[0].strip().lower().endswith("json"):
            message = f"The response is not JSON: {error}"
        else:
            message = (
                f"Expected Content-Type response header to be `{CONTENT_TYPE}` but received `{content_type}` instead."
            )
        raise APIResponseValidationError(message, status_code=status_code, body=text) from error
