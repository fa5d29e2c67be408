"""Protobuf bodies of today's protocol: requests into the form their JSON has, results out of it."""

from __future__ import annotations

import base64
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from ..protocol.protobuf_schema import ENUMS, message
from .bodies import Refusal

__all__ = ["PROTOBUF", "forward_backward", "inflate", "output", "response"]

PROTOBUF = "application/x-protobuf"
#: Bytes a compressed body may have once inflated.
MAX_INFLATED = 256 * 1024 * 1024

#: On the wire -> (how it is written, what it is called in JSON).
_DTYPES = {
    "DTYPE_FLOAT32": ("<f4", "float32"),
    "DTYPE_INT64": ("<i8", "int64"),
    "DTYPE_INT32": ("<i4", "int64"),
    "DTYPE_BFLOAT16": ("<u2", "float32"),
}
#: What stands in a top-k cell where there is nothing.
_NOTHING = (0, -99999.0)


def inflate(data: bytes, encoding: str) -> bytes:
    """A body as it was before ``Content-Encoding``.

    Raises:
        Refusal: 415 for an encoding not known here, 400 for a damaged frame, 413 for too large a body.
    """
    if encoding in ("", "identity"):
        return data
    try:
        import zstandard
    except ImportError:
        zstandard = None  # type: ignore[assignment]
    if encoding != "zstd" or zstandard is None:
        raise Refusal(415, f"Content-Encoding {encoding!r} is not understood here")
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            plain = reader.read(MAX_INFLATED + 1)
    except zstandard.ZstdError as error:
        raise Refusal(400, f"the body is no zstd frame: {error}") from None
    if len(plain) > MAX_INFLATED:
        raise Refusal(413, f"the inflated body has more than {MAX_INFLATED} bytes")
    return plain


# Requests


def forward_backward(data: bytes) -> Dict[str, Any]:
    """A ForwardBackwardRequest as the object its JSON is, with ``forward_only`` beside; numbers are numpy arrays.

    Raises:
        Refusal: 400 for what is not protobuf, 422 for blocks that do not fit their shape.
    """
    from google.protobuf.message import DecodeError

    request = message("ForwardBackwardRequest")()
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        raise Refusal(400, f"the body is no ForwardBackwardRequest: {error}") from None
    if request.seq_id < 1:
        raise Refusal(422, f"seq_id: must be at least 1, not {request.seq_id}")
    config: Dict[str, Any] = {
        name: getattr(value, value.WhichOneof("value") or "number")
        for name, value in request.loss_fn_config_v2.items()
    }
    config.update(request.loss_fn_config)
    return {
        "model_id": request.model_id,
        "seq_id": request.seq_id,
        "forward_only": request.forward_only,
        "forward_backward_input": {
            "data": [_datum(f"data[{index}]", datum) for index, datum in enumerate(request.data)],
            "loss_fn": request.loss_fn,
            "loss_fn_config": config or None,
        },
    }


def _datum(where: str, datum: Any) -> Dict[str, Any]:
    return {
        "model_input": {
            "chunks": [
                _chunk(f"{where}.model_input[{index}]", chunk)
                for index, chunk in enumerate(datum.model_input)
            ]
        },
        "loss_fn_inputs": {
            name: _tensor(f"{where}.loss_fn_inputs[{name!r}]", tensor)
            for name, tensor in datum.loss_fn_inputs.items()
        },
    }


def _chunk(where: str, chunk: Any) -> Dict[str, Any]:
    kind = chunk.WhichOneof("chunk")
    if kind == "encoded_text":
        return {"tokens": _block(f"{where}.tokens", chunk.encoded_text.tokens, "<i4")}
    if kind == "image":
        image = chunk.image
        return {
            "data": base64.b64encode(image.data).decode(),
            "format": image.format,
            "expected_tokens": image.expected_tokens if image.HasField("expected_tokens") else None,
        }
    raise Refusal(422, f"{where}: this server's models take text and images, not {kind or 'an empty chunk'}")


def _block(where: str, data: bytes, code: str) -> Any:
    width = int(code[2:])
    if len(data) % width:
        raise Refusal(422, f"{where}: {len(data)} bytes are no whole number of elements of {width} bytes")
    return np.frombuffer(data, code)


def _tensor(where: str, tensor: Any) -> Dict[str, Any]:
    names = ENUMS["DType"]
    if not 0 < tensor.dtype < len(names):
        raise Refusal(422, f"{where}: no dtype has the number {tensor.dtype}")
    code, dtype = _DTYPES[names[tensor.dtype]]
    shape = list(tensor.shape)
    if min(shape, default=0) < 0:
        raise Refusal(422, f"{where}: negative extent in shape {shape}")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        values = _dense(where, tensor.sparse_csr, code, shape)
    else:
        values = _block(where, tensor.dense, code)
        if shape and math.prod(shape) != len(values):
            raise Refusal(422, f"{where}: {len(values)} elements do not fit shape {shape}")
    if code == "<u2":  # bfloat16 is the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return {"data": values, "dtype": dtype, "shape": shape or None}


def _dense(where: str, csr: Any, code: str, shape: List[int]) -> Any:
    values = _block(f"{where}.values", csr.values, code)
    starts = _block(f"{where}.crow_indices", csr.crow_indices, "<i8")
    columns = _block(f"{where}.col_indices", csr.col_indices, "<i8")
    fits = (
        len(shape) == 2
        and len(starts) == shape[0] + 1
        and len(columns) == len(values)
        and starts[0] == 0
        and starts[-1] == len(values)
        and (np.diff(starts) >= 0).all()
        and ((columns >= 0) & (columns < shape[1])).all()
    )
    if not fits:
        raise Refusal(422, f"{where}: the sparse indices do not fit {len(values)} values in shape {shape}")
    dense = np.zeros(shape, values.dtype)
    dense[np.repeat(np.arange(shape[0]), np.diff(starts)), columns] = values
    return dense.ravel()


# Results


def _floats(values: Sequence[Optional[float]]) -> bytes:
    return np.array([math.nan if value is None else value for value in values], "<f4").tobytes()


def output(result: Mapping[str, Any]) -> bytes:
    """The result of a forward or backward pass, a ForwardBackwardOutput."""
    made = message("ForwardBackwardOutput")(loss_fn_output_type=result["loss_fn_output_type"])
    made.metrics.update(result["metrics"])
    datums = result["loss_fn_outputs"]
    record = made.loss_fn_outputs.add(type_tag=result["loss_fn_output_type"], num_datums=len(datums))
    for name in datums[0]:
        blocks = [np.asarray(datum[name]["data"], "<f4").tobytes() for datum in datums]
        batched = record.fields[name]
        batched.data = b"".join(blocks)
        batched.offsets = np.cumsum([0, *map(len, blocks)]).astype("<i8").tobytes()
        batched.dtype = ENUMS["DType"].index("DTYPE_FLOAT32")
    packed: bytes = made.SerializeToString()
    return packed


def response(result: Mapping[str, Any]) -> bytes:
    """The result of a sample, a SampleResponse."""
    made = message("SampleResponse")()
    for sequence in result["sequences"]:
        one = made.sequences.add(
            stop_reason=("stop", "length").index(sequence["stop_reason"]),
            tokens=np.array(sequence["tokens"], "<i4").tobytes(),
            logprobs=_floats(sequence["logprobs"]),
        )
        _fill_top(one, "topk_sampled_logprobs", sequence.get("topk_sampled_logprobs"))
    if result["prompt_logprobs"] is not None:
        made.prompt_logprobs = _floats(result["prompt_logprobs"])
    _fill_top(made, "topk_prompt_logprobs", result["topk_prompt_logprobs"])
    if result.get("target_prompt_logprobs") is not None:
        _fill_tensor(made.target_prompt_logprobs, result["target_prompt_logprobs"])
    for name, tensor in (result.get("prompt_alt_tokens") or {}).items():
        _fill_tensor(getattr(made.prompt_alt_tokens, name), tensor)
    packed: bytes = made.SerializeToString()
    return packed


def _fill_tensor(made: Any, tensor: Mapping[str, Any]) -> None:
    name, code = ("DTYPE_INT64", "<i8") if tensor["dtype"] == "int64" else ("DTYPE_FLOAT32", "<f4")
    made.dtype = ENUMS["DType"].index(name)
    made.shape.extend(tensor["shape"])
    values = np.asarray(tensor["data"], code).tobytes()
    if "sparse_crow_indices" not in tensor:
        made.dense = values
        return
    made.sparse_csr.values = values
    made.sparse_csr.crow_indices = np.asarray(tensor["sparse_crow_indices"], "<i8").tobytes()
    made.sparse_csr.col_indices = np.asarray(tensor["sparse_col_indices"], "<i8").tobytes()


def _fill_top(made: Any, name: str, rows: Optional[Sequence[Optional[Sequence[Any]]]]) -> None:
    if rows is None:
        return
    width = max((len(row) for row in rows if row), default=1)
    cells = [cell for row in rows for cell in [*(row or ()), *[_NOTHING] * (width - len(row or ()))]]
    top = getattr(made, name)
    top.token_ids = np.array([token for token, _ in cells], "<i4").tobytes()
    top.logprobs = _floats([logprob for _, logprob in cells])
    top.k, top.length = width, len(rows)
