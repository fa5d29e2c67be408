"""Decoding of results from protobuf to wire types.

Every length, offset and number of elements is checked against the bytes of the response. A damaged response raises an
error with the place of the damage; it never yields a truncated or shifted result.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Dict, List, Optional, Tuple, Type, TypeVar, Union

from ..errors import APIResponseValidationError
from ..types import ForwardBackwardOutput, SampledSequence, SampleResponse, TensorData
from ..types.sampling import PromptAltTokens
from ..types.tensors import TensorDtype
from .protobuf_schema import ENUMS, message

_Result = TypeVar("_Result", ForwardBackwardOutput, SampleResponse)
_TopK = Optional[List[Optional[List[Tuple[int, float]]]]]

#: Content type of protobuf, and the results that servers of protocol 0.38 may send as protobuf.
CONTENT_TYPE = "application/x-protobuf"
RESULTS = (ForwardBackwardOutput, SampleResponse)

#: Type on the wire -> (struct format of an element, its bytes, dtype of the TensorData).
_DTYPES: Dict[str, Tuple[str, int, TensorDtype]] = {
    "DTYPE_FLOAT32": ("f", 4, "float32"),
    "DTYPE_INT64": ("q", 8, "int64"),
    "DTYPE_INT32": ("i", 4, "int64"),
    "DTYPE_BFLOAT16": ("f", 2, "float32"),
}
_STOP_REASONS = ("stop", "length")
#: The cell that pads a top-k row.
_PADDING = (0, -99999.0)


#: Datums of a record without fields, whose number no bytes of the response confirm.
_MOST_EMPTY_DATUMS = 1_000_000


class _Damaged(Exception):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(problem)
        self.path = path


def decode(content: bytes, kind: Type[_Result], status_code: int = 200) -> _Result:
    """Decode the body of a response of content type ``application/x-protobuf``.

    Args:
        kind: The expected type of the result.
        status_code: The response's status, for the error.

    Raises:
        MissingExtraError: The protobuf package is not installed.
        APIResponseValidationError: The body is damaged or has an unknown value (``.path`` is the place), or ``kind`` is
            none of :data:`RESULTS`.
    """
    if kind not in RESULTS:
        raise APIResponseValidationError(
            f"The response is protobuf, and {kind.__name__} can only be decoded from JSON",
            status_code=status_code,
            body=content,
        )
    parsed = message(kind.__name__)()
    from google.protobuf.message import DecodeError

    try:
        parsed.ParseFromString(content)
        result: Any = _output(parsed) if kind is ForwardBackwardOutput else _response(parsed)
    except (DecodeError, _Damaged) as error:
        path = getattr(error, "path", "")
        where = f" at {path}" if path else ""
        raise APIResponseValidationError(
            f"Cannot decode the response as {kind.__name__}{where}: {error}",
            status_code=status_code,
            body=content,
            path=path,
        ) from None
    return result  # type: ignore[no-any-return]


def _output(parsed: Any) -> ForwardBackwardOutput:
    outputs: List[Dict[str, TensorData]] = []
    for index, record in enumerate(parsed.loss_fn_outputs):
        outputs += _record(f"loss_fn_outputs[{index}]", record)
    kind = parsed.loss_fn_output_type or "ArrayRecord"
    if parsed.loss_fn_outputs:
        kind = kind.rpartition(":")[2]
    return ForwardBackwardOutput(
        loss_fn_output_type=kind or "ArrayRecord", loss_fn_outputs=outputs, metrics=dict(parsed.metrics)
    )


def _record(path: str, record: Any) -> List[Dict[str, TensorData]]:
    columns = {name: _column(f"{path}.fields[{name!r}]", record.fields[name]) for name in sorted(record.fields)}
    first = len(record.fields[next(iter(record.fields))].offsets) // 8 - 1 if columns else 0
    count = record.num_datums or max(first, 0)
    if count < 0:
        raise _Damaged(f"{path}.num_datums", f"{count} datums")
    for name, column in columns.items():
        if len(column) < count:
            raise _Damaged(f"{path}.fields[{name!r}]", f"{len(column)} rows for {count} datums")
    if not columns and count > _MOST_EMPTY_DATUMS:
        raise _Damaged(f"{path}.num_datums", f"{count} datums without fields")
    return [{name: column[row] for name, column in columns.items()} for row in range(count)]


def _column(path: str, batched: Any) -> List[TensorData]:
    """Return one tensor per datum."""
    offsets = _numbers(f"{path}.offsets", batched.offsets, "DTYPE_INT64")
    trailing = list(batched.trailing_shape)
    if min(trailing, default=0) < 0:
        raise _Damaged(f"{path}.trailing_shape", f"negative extent in {trailing}")
    dtype = _dtype(path, batched.dtype)
    code, width, kind = _DTYPES[dtype]
    inner = math.prod(trailing)
    rows = []
    data = batched.data  # once, because each access copies it
    for row, (start, stop) in enumerate(zip(offsets, offsets[1:])):
        if not 0 <= start <= stop <= len(data):
            raise _Damaged(f"{path}.offsets[{row}]", f"bytes {start} to {stop} are outside of {len(data)} bytes")
        packed = _widened(f"{path}.data", data[start:stop], dtype)
        count = (stop - start) // width
        if count % inner if inner else count:
            raise _Damaged(f"{path}.offsets[{row}]", f"{count} elements in rows of {trailing}")
        shape = [count // inner if inner else 0, *trailing]
        rows.append(TensorData.from_packed(packed, code, kind, shape))
    return rows


def _dtype(path: str, number: int) -> str:
    names = ENUMS["DType"]
    if not 0 < number < len(names):
        raise _Damaged(f"{path}.dtype", f"unknown dtype number {number}")
    return names[number]


def _widened(path: str, data: bytes, dtype: str) -> bytes:
    """Return packed elements in the format of their dtype. A bfloat16 becomes the float32 whose upper half it is."""
    width = _DTYPES[dtype][1]
    if len(data) % width:
        raise _Damaged(path, f"{len(data)} bytes are not a multiple of {width} bytes per element")
    if width > 2:
        return data
    widened = bytearray(2 * len(data))
    widened[2::4], widened[3::4] = data[::2], data[1::2]
    return bytes(widened)


def _numbers(path: str, data: bytes, dtype: str = "DTYPE_FLOAT32") -> List[Any]:
    code, width, _ = _DTYPES[dtype]
    return list(struct.unpack(f"<{len(data) // width}{code}", _widened(path, data, dtype)))


def _tensor_data(values: List[Any], dtype: str, shape: Optional[List[int]], **sparse: Any) -> TensorData:
    return TensorData(data=values, dtype=_DTYPES[dtype][2], shape=shape, **sparse)


def _tensor(path: str, tensor: Any) -> TensorData:
    dtype = _dtype(path, tensor.dtype)
    shape = list(tensor.shape)
    if min(shape, default=0) < 0:
        raise _Damaged(f"{path}.shape", f"negative extent in {shape}")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        return _sparse(f"{path}.sparse_csr", tensor.sparse_csr, dtype, shape)
    values = _numbers(f"{path}.dense", tensor.dense, dtype)
    # An empty shape is sent for a single number, and also if there is no shape.
    if shape and math.prod(shape) != len(values):
        raise _Damaged(f"{path}.shape", f"{len(values)} elements do not fit {shape}")
    return _tensor_data(values, dtype, shape or ([] if len(values) == 1 else [len(values)]))


def _sparse(path: str, csr: Any, dtype: str, shape: List[int]) -> TensorData:
    values = _numbers(f"{path}.values", csr.values, dtype)
    crow = _numbers(f"{path}.crow_indices", csr.crow_indices, "DTYPE_INT64")
    columns = _numbers(f"{path}.col_indices", csr.col_indices, "DTYPE_INT64")
    if len(shape) != 2 or len(crow) != shape[0] + 1:
        raise _Damaged(f"{path}.crow_indices", f"{len(crow)} row starts for shape {shape}")
    rising = all(start <= stop for start, stop in zip(crow, crow[1:]))
    if not rising or crow[0] != 0 or crow[-1] != len(values):
        raise _Damaged(f"{path}.crow_indices", f"the row starts do not divide {len(values)} values into rows")
    if len(columns) != len(values) or not all(0 <= column < shape[1] for column in columns):
        raise _Damaged(
            f"{path}.col_indices", f"there must be one column below {shape[1]} for each of {len(values)} values"
        )
    return _tensor_data(values, dtype, shape, sparse_crow_indices=crow, sparse_col_indices=columns)


def _response(parsed: Any) -> SampleResponse:
    prompt = _numbers("prompt_logprobs", parsed.prompt_logprobs)
    alternatives = None
    if parsed.HasField("prompt_alt_tokens"):
        both = parsed.prompt_alt_tokens
        alternatives = PromptAltTokens(
            tokens=_tensor("prompt_alt_tokens.tokens", both.tokens),
            logprobs=_tensor("prompt_alt_tokens.logprobs", both.logprobs),
        )
    targets = None
    if parsed.HasField("target_prompt_logprobs"):
        targets = _tensor("target_prompt_logprobs", parsed.target_prompt_logprobs)
    return SampleResponse(
        sequences=[_sequence(f"sequences[{index}]", one) for index, one in enumerate(parsed.sequences)],
        prompt_logprobs=[None if math.isnan(value) else value for value in prompt] or None,
        topk_prompt_logprobs=_topk("topk_prompt_logprobs", parsed.topk_prompt_logprobs),
        prompt_cache_hit_tokens=parsed.prompt_cache_hit_tokens,
        target_prompt_logprobs=targets,
        prompt_alt_tokens=alternatives,
    )


def _sequence(path: str, parsed: Any) -> SampledSequence:
    if not 0 <= parsed.stop_reason < len(_STOP_REASONS):
        raise _Damaged(f"{path}.stop_reason", f"unknown stop reason number {parsed.stop_reason}")
    reason: Any = _STOP_REASONS[parsed.stop_reason]
    return SampledSequence(
        stop_reason=reason,
        tokens=_numbers(f"{path}.tokens", parsed.tokens, "DTYPE_INT32"),
        logprobs=_numbers(f"{path}.logprobs", parsed.logprobs) or None,
        topk_sampled_logprobs=_topk(f"{path}.topk_sampled_logprobs", parsed.topk_sampled_logprobs),
    )


def _topk(path: str, parsed: Any) -> _TopK:
    if not parsed.k or not parsed.length:
        return None
    tokens = _numbers(f"{path}.token_ids", parsed.token_ids, "DTYPE_INT32")
    logprobs = _numbers(f"{path}.logprobs", parsed.logprobs)
    wanted = parsed.k * parsed.length
    for name, values in (("token_ids", tokens), ("logprobs", logprobs)):
        if len(values) != wanted:
            raise _Damaged(f"{path}.{name}", f"{len(values)} elements for {parsed.length} rows of {parsed.k}")
    cells = list(zip(tokens, logprobs))
    return [_row(cells[start : start + parsed.k]) for start in range(0, wanted, parsed.k)]


def _row(cells: List[Tuple[int, float]]) -> Union[List[Tuple[int, float]], None]:
    if cells[0] == _PADDING:
        return None
    while cells[-1] == _PADDING:
        cells.pop()
    return cells
