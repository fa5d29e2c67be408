"""Encoding of training requests to protobuf.

The body is written without the protobuf package, which would copy every block of numbers into a message and then into
the body. Here a datum's numbers are converted once and appended to the body.
"""

from __future__ import annotations

import math
import struct
import sys
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

from ..types import Datum, EncodedTextChunk, ImageChunk, ModelInputChunk, TensorData
from ..types.tensors import is_array
from .protobuf_schema import ENUMS, message, missing_extra, tag

#: dtype -> (struct format of an element, numpy dtype); both are little-endian.
_PACKED = {"int32": ("i", "<i4"), "int64": ("q", "<i8"), "float32": ("f", "<f4")}

_CHUNK = tag("Datum", "model_input")
_TEXT = (tag("EncodedTextChunk", "tokens"), tag("Chunk", "encoded_text"), _CHUNK)
_IMAGE = (tag("ImageChunk", "data"), tag("Chunk", "image"), _CHUNK)
_DENSE = tag("Tensor", "dense")
_INPUT = tag("Datum", "loss_fn_inputs")
_DATUM = tag("ForwardBackwardRequest", "data")
_SPARSE = [tag("SparseCsr", name) for name in ("values", "crow_indices", "col_indices")]
#: The two fields of a map's entry, as bytes or messages.
_KEY, _VALUE = b"\x0a", b"\x12"

_Piece = Union[bytes, memoryview]


def encode_forward_backward(
    data: Sequence[Datum],
    loss_fn: str,
    loss_fn_config: Optional[Mapping[str, Union[float, str]]],
    model_id: str,
    seq_id: int,
    *,
    forward_only: bool = False,
    first_index: int = 0,
) -> bytes:
    """Encode the body of ``POST /api/v1/forward_backward``, a ForwardBackwardRequest.

    Args:
        data: The datums of this request. Numbers are sent as the tensor's ``dtype``: fractions of an int64 are cut off,
            floats are rounded to float32, NaN and infinities are sent.
        loss_fn_config: Numbers (sent as doubles) and strings by name.
        forward_only: Compute no gradients, as ``POST /api/v1/forward`` does in JSON.
        first_index: Position of ``data[0]`` in the caller's batch, for errors.

    Raises:
        MissingExtraError: The protobuf package, which decodes the result, is not installed.
        OverflowError: A number does not fit its dtype; the message has the datum and the element.
        ValueError: There is an image by pointer, a shape that does not fit its data, or incomplete sparse indices.
        TypeError: A value of ``loss_fn_config`` is neither a number nor a string.
    """
    message("ForwardBackwardOutput")
    body: List[_Piece] = [_text_field("model_id", model_id)]
    if seq_id:
        body.append(_field("seq_id") + _varint(seq_id))
    for index, datum in enumerate(data, first_index):
        pieces = _datum(f"datum {index}", datum)
        body.append(_DATUM + _varint(sum(map(len, pieces))))
        body += pieces
    body.append(_text_field("loss_fn", loss_fn))
    for name, value in (loss_fn_config or {}).items():
        body.append(_config_entries(name, value))
    if forward_only:
        body.append(_field("forward_only") + b"\x01")
    return b"".join(body)


def compress(content: bytes) -> bytes:
    """Compress a body to one zstd frame (level 3, size in its header, no checksum), for ``Content-Encoding: zstd``.

    Raises:
        MissingExtraError: The zstandard package is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise missing_extra("zstandard") from None
    compressor = zstandard.ZstdCompressor(level=3, write_content_size=True, write_checksum=False)
    frame: bytes = compressor.compress(content)
    return frame


def _varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 2**64 - 1  # a negative number is written in two's complement
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _field(name: str) -> bytes:
    return tag("ForwardBackwardRequest", name)


def _text_field(name: str, text: str) -> bytes:
    return _wrap(text.encode(), _field(name)) if text else b""


def _wrap(head: bytes, *tags: bytes, size: int = 0) -> bytes:
    """Wrap ``head``, which ``size`` more bytes follow, in length-delimited fields, the innermost first."""
    for each in tags:
        head = each + _varint(len(head) + size) + head
    return head


def _config_entries(name: str, value: Any) -> bytes:
    key = _wrap(name.encode(), _KEY)
    if isinstance(value, str):
        wanted = _wrap(_wrap(value.encode(), tag("LossConfigValue", "text")), _VALUE)
        return _wrap(key + wanted, _field("loss_fn_config_v2"))
    try:
        number = struct.pack("<d", value)
    except struct.error:
        raise TypeError(f"loss_fn_config[{name!r}] must be a number or a string, not {value!r}") from None
    plain = key + b"\x11" + number
    tagged = key + _wrap(tag("LossConfigValue", "number") + number, _VALUE)
    return _wrap(plain, _field("loss_fn_config")) + _wrap(tagged, _field("loss_fn_config_v2"))


def _datum(where: str, datum: Datum) -> List[_Piece]:
    pieces: List[_Piece] = []
    for place, chunk in enumerate(datum.model_input.chunks):
        pieces += _chunk(f"{where}: model_input.chunks[{place}]", chunk)
    for name, tensor in datum.loss_fn_inputs.items():
        key = _wrap(name.encode(), _KEY)
        pieces += _tensor(f"{where}: loss_fn_inputs[{name!r}]", key, tensor)
    return pieces


def _chunk(where: str, chunk: ModelInputChunk) -> Tuple[_Piece, _Piece]:
    if isinstance(chunk, EncodedTextChunk):
        block = _block(f"{where}.tokens", chunk.tokens, "int32")
        tags = _TEXT if block else _TEXT[1:]
        return _wrap(b"", *tags, size=len(block)), block
    if not isinstance(chunk, ImageChunk):
        raise ValueError(
            f"{where} is an image by pointer ({chunk.location!r}), which cannot be sent as protobuf:"
            f" read the file and use an ImageChunk"
        )
    size = len(chunk.data)
    head = _wrap(chunk.format.encode(), tag("ImageChunk", "format"))
    if chunk.expected_tokens is not None:
        head += tag("ImageChunk", "expected_tokens") + _varint(chunk.expected_tokens)
    if size:
        head += _IMAGE[0] + _varint(size)
    return _wrap(head, *_IMAGE[1:], size=size), chunk.data


def _tensor(where: str, key: bytes, tensor: TensorData) -> List[_Piece]:
    values = _block(where, tensor.data, tensor.dtype)
    head = tag("Tensor", "dtype") + _varint(ENUMS["DType"].index(f"DTYPE_{tensor.dtype.upper()}"))
    shape = tensor.shape
    if shape:
        head += _wrap(b"".join(map(_varint, shape)), tag("Tensor", "shape"))
    if tensor.sparse_crow_indices is None and tensor.sparse_col_indices is None:
        if shape is not None and (math.prod(shape) != len(tensor.data) or min(shape, default=0) < 0):
            raise ValueError(f"{where}: {len(tensor.data)} elements do not fit shape {shape}")
        head += _DENSE + _varint(len(values))
        return [_entry(key, head, len(values)), values]
    _check_sparse(where, tensor)
    blocks = [values]
    blocks.append(_block(f"{where}.sparse_crow_indices", tensor.sparse_crow_indices or [], "int64"))
    blocks.append(_block(f"{where}.sparse_col_indices", tensor.sparse_col_indices or [], "int64"))
    pieces: List[_Piece] = []
    for each, block in zip(_SPARSE, blocks):
        if block:
            pieces += (each + _varint(len(block)), block)
    size = sum(map(len, pieces))
    head += tag("Tensor", "sparse_csr") + _varint(size)
    return [_entry(key, head, size), *pieces]


def _entry(key: bytes, head: bytes, size: int) -> bytes:
    value = key + _wrap(head, _VALUE, size=size)
    return _wrap(value, _INPUT, size=size)


def _check_sparse(where: str, tensor: TensorData) -> None:
    crow, col, shape = tensor.sparse_crow_indices, tensor.sparse_col_indices, tensor.shape
    if crow is None or col is None:
        missing = "sparse_crow_indices" if crow is None else "sparse_col_indices"
        raise ValueError(f"{where} is sparse but has no {missing}: pass both index lists")
    if shape is None or len(shape) != 2 or min(shape) < 0:
        raise ValueError(f"{where} is sparse and needs shape [rows, columns], not {shape}")
    if len(crow) != shape[0] + 1 or len(col) != len(tensor.data):
        raise ValueError(
            f"{where}: {len(tensor.data)} sparse values in {shape[0]} rows need {shape[0] + 1}"
            f" sparse_crow_indices and {len(tensor.data)} sparse_col_indices, not {len(crow)} and {len(col)}"
        )


def _block(where: str, values: Any, dtype: str) -> _Piece:
    """Pack numbers as bytes; an array of the right dtype is used without a copy."""
    code, form = _PACKED[dtype]
    if is_array(values):
        return _array_block(where, values, dtype, form)
    try:
        return struct.pack(f"<{len(values)}{code}", *values)
    except (struct.error, OverflowError):
        return b"".join(_one(f"{where}[{place}]", value, code, dtype) for place, value in enumerate(values))


def _array_block(where: str, values: Any, dtype: str, form: str) -> _Piece:
    if dtype == "float32" and values.dtype.str == form:
        return _view(values)
    numpy = sys.modules["numpy"]
    try:
        if values.dtype.kind == "u" or (values.dtype.kind == "f" and dtype == "int64"):
            return _block(where, values.tolist(), dtype)
        with numpy.errstate(over="raise"):
            return _view(values.astype(form, copy=False))
    except FloatingPointError:
        return _block(where, values.tolist(), dtype)


def _view(values: Any) -> memoryview:
    # A memoryview without elements cannot be cast.
    return memoryview(values).cast("B") if values.size else memoryview(b"")


def _one(where: str, value: Any, code: str, dtype: str) -> bytes:
    try:
        return struct.pack(f"<{code}", value if code == "f" else int(value))
    except (struct.error, OverflowError, ValueError, TypeError):
        kind = ValueError if value != value else OverflowError
        raise kind(f"{where} is {value!r}, which does not fit {dtype}: correct it before sending") from None
