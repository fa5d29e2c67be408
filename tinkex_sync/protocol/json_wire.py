"""Encoding and decoding of bodies as JSON, by orjson; and decoding of results, which may be protobuf.

:func:`encode` encodes any body, :func:`encode_forward_backward` a chunk of a batch. :func:`check_finite` checks a batch
before any of it is sent. :func:`decode` and :func:`decode_result` decode responses.

orjson writes NaN and infinities as null instead of raising an error. Only bodies that contain ``null`` are searched for
them, so for other bodies the check costs one search for four bytes.
"""

from __future__ import annotations

import functools
import json
import math
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence

import orjson

from ..errors import APIResponseValidationError
from ..types import (
    Datum,
    ForwardBackwardInput,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    ForwardRequest,
    LossFnType,
    SampleResponse,
    TensorData,
)
from ..types.wire import Wire
from . import protobuf_reader as reading

CONTENT_TYPE = "application/json"
PROTOBUF = "application/x-protobuf"

#: Results that servers of protocol 0.38 may send as protobuf.
_PACKED_RESULTS = (ForwardBackwardOutput, SampleResponse)

#: Wire types are encoded by their own method, not by orjson's rule for dataclasses.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS


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
    kind: str,
    data: Sequence[Datum],
    loss_fn: LossFnType,
    loss_fn_config: Optional[Mapping[str, float]],
    model_id: str,
    seq_id: int,
    *,
    first_index: int = 0,
) -> bytes:
    """Encode the body of ``POST /api/v1/forward`` or ``/api/v1/forward_backward``.

    Datums are encoded one at a time, so that other threads run between them in a large batch.

    Args:
        kind: "forward" or "forward_backward".
        data: The datums of this request.
        first_index: Position of ``data[0]`` in the caller's batch, for errors.

    Raises:
        ValueError: A loss input is NaN or infinite (the message has datum, key and element), or ``loss_fn`` is unknown.
    """
    pieces: List[bytes] = []
    for index, datum in enumerate(data, first_index):
        piece = _dumps(datum)
        if b"null" in piece:
            _check_datum(index, datum)
        pieces.append(piece)
    config = None if loss_fn_config is None else dict(loss_fn_config)
    batch = ForwardBackwardInput(data=[], loss_fn=loss_fn, loss_fn_config=config)
    request = ForwardRequest if kind == "forward" else ForwardBackwardRequest
    return fill_first_list(encode(request(batch, model_id, seq_id)), pieces)


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
                f"datum {index}: loss_fn_inputs[{key!r}][{place}] is {float(value)!r};"
                " only finite numbers can be sent"
            )


def _all_finite(tensor: TensorData) -> bool:
    data: Any = tensor.data
    if isinstance(data, (list, tuple)):
        try:
            # A sum of finite numbers may be infinite, so an infinite sum needs a look at every number.
            return math.isfinite(sum(data)) or all(map(math.isfinite, data))
        except OverflowError:  # an int is too large for a float
            return all(type(value) is int or math.isfinite(value) for value in data)
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

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content)
        except RecursionError as error:
            raise ValueError(f"JSON nested too deeply: {error}") from None


def decode(content: bytes, content_type: str = CONTENT_TYPE, status_code: int = 200) -> Any:
    """Decode the body of a successful response; its content type is used for the error message only.

    Raises:
        APIResponseValidationError: It is not JSON; ``.body`` is its text.
    """
    try:
        return loads(content)
    except ValueError as error:
        text = content.decode("utf-8", "replace")
        if content_type.partition(";")[0].strip().lower().endswith("json"):
            message = f"The response is not JSON: {error}"
        else:
            message = (
                f"Expected Content-Type response header to be `{CONTENT_TYPE}`"
                f" but received `{content_type}` instead."
            )
        raise APIResponseValidationError(message, status_code=status_code, body=text) from error


@functools.cache
def reads_protobuf() -> bool:
    """Return whether the protobuf package is installed; without it, results are requested as JSON."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        return False
    return True


def accept_header(kind: Any) -> Dict[str, str]:
    """Return the ``Accept`` header of a poll whose result may be protobuf; empty for the default, JSON."""
    if kind in _PACKED_RESULTS and reads_protobuf():
        return {"Accept": f"{PROTOBUF}, {CONTENT_TYPE}"}
    return {}


def decode_result(content: bytes, content_type: str, status_code: int, kind: Any) -> Any:
    """Decode the response of a poll: an instance of ``kind`` if it is protobuf, otherwise decoded JSON.

    Raises:
        APIResponseValidationError: It is neither.
    """
    if PROTOBUF not in content_type:
        return decode(content, content_type, status_code)
    if kind not in _PACKED_RESULTS:
        raise APIResponseValidationError(
            f"The response is protobuf, and {kind.__name__} can only be decoded from JSON",
            status_code=status_code,
            body=content,
        )
    return reading.decode(content, kind, status_code)
