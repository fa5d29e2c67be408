"""Encoding and decoding of bodies as JSON, by orjson; and decoding of results, which may be protobuf.

:func:`encode` encodes any body, :func:`encode_forward_backward` a chunk of a batch. :func:`check_finite` checks a batch
before any of it is sent. :func:`decode` and :func:`decode_result` decode responses.

orjson writes NaN and infinities as null instead of refusing them. They are looked for only in bodies in
which a ``null`` occurs, so finding them costs other bodies one search for four letters.
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
    LossFnType,
    SampleResponse,
    TensorData,
)
from ..types.wire import Wire
from . import protobuf_reader as reading

__all__ = ["CONTENT_TYPE", "check_finite", "decode", "encode", "encode_forward_backward", "loads"]

CONTENT_TYPE = "application/json"
PROTOBUF = "application/x-protobuf"

#: Results that servers of protocol 0.38 may send as protobuf.
_PACKED_RESULTS = (ForwardBackwardOutput, SampleResponse)

#: Wire types inside a body are written by their own rules, not as orjson writes dataclasses.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS

#: The key of the request body that holds the batch.
_INPUT_KEYS = {"forward": "forward_input", "forward_backward": "forward_backward_input"}


def encode(body: Any) -> bytes:
    """A body as compact UTF-8 JSON, keys in the order given; wire types and arrays may stand anywhere in it.

    Raises:
        ValueError: a number is NaN or infinite, or a string is not Unicode text; the text says where.
        TypeError: something in it has no JSON form.
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
    """The body of ``POST /api/v1/forward`` or ``/api/v1/forward_backward``.

    Datums are encoded one at a time, so that other threads run between them however large the batch.

    Args:
        kind: "forward" or "forward_backward".
        data: The datums of this request.
        first_index: Place of ``data[0]`` in the caller's batch, for errors.

    Raises:
        ValueError: a loss input is NaN or infinite (names datum, key and element), or ``loss_fn`` is
        unknown.
    """
    pieces: List[bytes] = []
    for index, datum in enumerate(data, first_index):
        piece = _dumps(datum)
        if b"null" in piece:
            _check_datum(index, datum)
        pieces.append(piece)
    config = None if loss_fn_config is None else dict(loss_fn_config)
    # Encoded with no data, the input begins with an empty list, into which the pieces go.
    empty = encode(ForwardBackwardInput(data=[], loss_fn=loss_fn, loss_fn_config=config))
    rest = encode({"model_id": model_id, "seq_id": seq_id})
    head = b'{"data":['
    return b"".join(
        (
            b'{"',
            _INPUT_KEYS[kind].encode(),
            b'":',
            head,
            b",".join(pieces),
            empty[len(head) :],
            b",",
            rest[1:],
        )
    )


def check_finite(data: Sequence[Datum]) -> None:
    """Refuse a batch with NaN or infinity in a loss input before any of it is sent.

    Raises:
        ValueError: names datum, key and element.
    """
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
            # A sum of finite numbers may overflow, so only a finite one settles it.
            return math.isfinite(sum(data)) or all(map(math.isfinite, data))
        except OverflowError:  # an int beyond any float
            return all(type(value) is int or math.isfinite(value) for value in data)
    return data.dtype.kind != "f" or bool(sys.modules["numpy"].isfinite(data).all())


def _dumps(body: Any) -> bytes:
    # Told to write arrays, orjson imports numpy at the first value it does not know.
    options = _OPTIONS | orjson.OPT_SERIALIZE_NUMPY if "numpy" in sys.modules else _OPTIONS
    try:
        return orjson.dumps(body, default=_default, option=options)
    except TypeError:
        # Beyond orjson: integers over 64 bits, keys that are not strings, lone surrogates, deep nesting.
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
    """JSON by orjson, read again by the json module where orjson refuses: NaN, 1e999, lone surrogates.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content)
        except RecursionError as error:
            raise ValueError(f"JSON nested too deeply: {error}") from None


def decode(content: bytes, content_type: str = CONTENT_TYPE, status_code: int = 200) -> Any:
    """The decoded body of a successful answer, whatever its content type says.

    Raises:
        APIResponseValidationError: it is not JSON; ``.body`` is its text.
    """
    try:
        return loads(content)
    except ValueError as error:
        text = content.decode("utf-8", "replace")
        if content_type.partition(";")[0].strip().lower().endswith("json"):
            message = f"The server's answer is not JSON: {error}"
        else:
            message = (
                f"Expected Content-Type response header to be `{CONTENT_TYPE}`"
                f" but received `{content_type}` instead."
            )
        raise APIResponseValidationError(message, status_code=status_code, body=text) from error


@functools.cache
def reads_protobuf() -> bool:
    """Whether what protobuf takes is installed; without it everything that may be is JSON."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        return False
    return True


def accept_header(kind: Any) -> Dict[str, str]:
    """Return the ``Accept`` header of a poll that may be answered by protobuf; empty for the default, JSON."""
    if kind in _PACKED_RESULTS and reads_protobuf():
        return {"Accept": f"{PROTOBUF}, {CONTENT_TYPE}"}
    return {}


def decode_result(content: bytes, content_type: str, status_code: int, kind: Any) -> Any:
    """The answer of a poll: an instance of ``kind`` if it came as protobuf, otherwise decoded JSON.

    Raises:
        APIResponseValidationError: it is neither.
    """
    if PROTOBUF not in content_type:
        return decode(content, content_type, status_code)
    if kind not in _PACKED_RESULTS:
        raise APIResponseValidationError(
            f"The server's answer is protobuf, where {kind.__name__} comes as JSON",
            status_code=status_code,
            body=content,
        )
    return reading.decode(content, kind, status_code)
