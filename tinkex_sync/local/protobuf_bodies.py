"""Protobuf bodies of protocol 0.38.0: requests decoded to the form of their JSON, results encoded from that form."""

from __future__ import annotations

import base64
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence

import numpy as np

from ..protocol.protobuf_schema import ENUMS, message
from .json_bodies import RejectedRequest

__all__ = ["PROTOBUF_TYPE", "decode_forward_backward", "encode_sample_result", "encode_training_result"]

#: The media type of protobuf bodies.
PROTOBUF_TYPE = "application/x-protobuf"

#: The most elements of a tensor.
MAX_ELEMENTS = 16 * 1024 * 1024

#: The dtype in protobuf, the numpy dtype of its bytes, and the dtype in JSON.
_DTYPES = {
    "DTYPE_FLOAT32": ("<f4", "float32"),
    "DTYPE_INT64": ("<i8", "int64"),
    "DTYPE_INT32": ("<i4", "int64"),
    "DTYPE_BFLOAT16": ("<u2", "float32"),
}
#: The token and the log probability in an empty cell of a top-k table.
_EMPTY_CELL = (0, -99999.0)


# Requests


def decode_forward_backward(data: bytes) -> Dict[str, Any]:
    """Decode a ForwardBackwardRequest.

    Args:
        data: The decompressed bytes of the body.

    Returns:
        The object that the JSON form decodes to, plus ``forward_only``. Blocks of numbers are numpy arrays.

    Raises:
        RejectedRequest: 400 if ``data`` is not protobuf, 422 if a block does not have its shape.
    """
    from google.protobuf.message import DecodeError

    request = message("ForwardBackwardRequest")()
    try:
        request.ParseFromString(data)
    except DecodeError as error:
        raise RejectedRequest(400, f"the body is not a ForwardBackwardRequest: {error}") from None
    if request.seq_id < 1:
        raise RejectedRequest(422, f"seq_id: must be at least 1, not {request.seq_id}")
    config: Dict[str, Any] = {
        name: getattr(value, value.WhichOneof("value") or "number") for name, value in request.loss_fn_config_v2.items()
    }
    config.update(request.loss_fn_config)
    return {
        "model_id": request.model_id,
        "seq_id": request.seq_id,
        "forward_only": request.forward_only,
        "forward_backward_input": {
            "data": [_decode_datum(f"data[{index}]", datum) for index, datum in enumerate(request.data)],
            "loss_fn": request.loss_fn,
            "loss_fn_config": config or None,
        },
    }


def _decode_datum(where: str, datum: Any) -> Dict[str, Any]:
    return {
        "model_input": {
            "chunks": [
                _decode_chunk(f"{where}.model_input[{index}]", chunk) for index, chunk in enumerate(datum.model_input)
            ]
        },
        "loss_fn_inputs": {
            name: _decode_tensor(f"{where}.loss_fn_inputs[{name!r}]", tensor)
            for name, tensor in datum.loss_fn_inputs.items()
        },
    }


def _decode_chunk(where: str, chunk: Any) -> Dict[str, Any]:
    kind = chunk.WhichOneof("chunk")
    if kind == "encoded_text":
        return {"tokens": _decode_block(f"{where}.tokens", chunk.encoded_text.tokens, "<i4")}
    if kind == "image":
        image = chunk.image
        return {
            "data": base64.b64encode(image.data).decode(),
            "format": image.format,
            "expected_tokens": image.expected_tokens if image.HasField("expected_tokens") else None,
        }
    raise RejectedRequest(422, f"{where}: models of this server accept text and images, not {kind or 'an empty chunk'}")


def _decode_block(where: str, data: bytes, code: str) -> Any:
    width = int(code[2:])
    if len(data) % width:
        raise RejectedRequest(422, f"{where}: {len(data)} bytes are not a multiple of {width} bytes per element")
    return np.frombuffer(data, code)


def _decode_tensor(where: str, tensor: Any) -> Dict[str, Any]:
    names = ENUMS["DType"]
    if not 0 < tensor.dtype < len(names):
        raise RejectedRequest(422, f"{where}: unknown dtype number {tensor.dtype}")
    code, dtype = _DTYPES[names[tensor.dtype]]
    shape = list(tensor.shape)
    if min(shape, default=0) < 0:
        raise RejectedRequest(422, f"{where}: negative extent in shape {shape}")
    if math.prod(shape) > MAX_ELEMENTS:
        # A sparse tensor of a few bytes can declare any shape.
        raise RejectedRequest(422, f"{where}: shape {shape} has more than {MAX_ELEMENTS} elements")
    if tensor.WhichOneof("encoding") == "sparse_csr":
        values = _decode_sparse(where, tensor.sparse_csr, code, shape)
    else:
        values = _decode_block(where, tensor.dense, code)
        if shape and math.prod(shape) != len(values):
            raise RejectedRequest(422, f"{where}: {len(values)} elements do not fit shape {shape}")
    if code == "<u2":  # a bfloat16 is the upper half of a float32
        values = (values.astype("<u4") << 16).view("<f4")
    return {"data": values, "dtype": dtype, "shape": shape or None}


def _decode_sparse(where: str, csr: Any, code: str, shape: List[int]) -> Any:
    values = _decode_block(f"{where}.values", csr.values, code)
    starts = _decode_block(f"{where}.crow_indices", csr.crow_indices, "<i8")
    columns = _decode_block(f"{where}.col_indices", csr.col_indices, "<i8")
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
        raise RejectedRequest(422, f"{where}: the sparse indices do not fit {len(values)} values in shape {shape}")
    dense = np.zeros(shape, values.dtype)
    dense[np.repeat(np.arange(shape[0]), np.diff(starts)), columns] = values
    return dense.ravel()


# Results


def _encode_floats(values: Sequence[Optional[float]]) -> bytes:
    return np.array([math.nan if value is None else value for value in values], "<f4").tobytes()


def encode_training_result(result: Mapping[str, Any]) -> bytes:
    """Encode the result of a forward or forward-backward pass as a ForwardBackwardOutput."""
    encoded = message("ForwardBackwardOutput")(loss_fn_output_type=result["loss_fn_output_type"])
    encoded.metrics.update(result["metrics"])
    datums = result["loss_fn_outputs"]
    record = encoded.loss_fn_outputs.add(type_tag=result["loss_fn_output_type"], num_datums=len(datums))
    for name in datums[0]:
        blocks = [np.asarray(datum[name]["data"], "<f4").tobytes() for datum in datums]
        batched = record.fields[name]
        batched.data = b"".join(blocks)
        batched.offsets = np.cumsum([0, *map(len, blocks)]).astype("<i8").tobytes()
        batched.dtype = ENUMS["DType"].index("DTYPE_FLOAT32")
    data: bytes = encoded.SerializeToString()
    return data


def encode_sample_result(result: Mapping[str, Any]) -> bytes:
    """Encode the result of a sample as a SampleResponse."""
    encoded = message("SampleResponse")()
    for sequence in result["sequences"]:
        encoded_sequence = encoded.sequences.add(
            stop_reason=("stop", "length").index(sequence["stop_reason"]),
            tokens=np.array(sequence["tokens"], "<i4").tobytes(),
            logprobs=_encode_floats(sequence["logprobs"]),
        )
        _fill_top_k(encoded_sequence, "topk_sampled_logprobs", sequence.get("topk_sampled_logprobs"))
    if result["prompt_logprobs"] is not None:
        encoded.prompt_logprobs = _encode_floats(result["prompt_logprobs"])
    _fill_top_k(encoded, "topk_prompt_logprobs", result["topk_prompt_logprobs"])
    if result.get("target_prompt_logprobs") is not None:
        _fill_tensor(encoded.target_prompt_logprobs, result["target_prompt_logprobs"])
    for name, tensor in (result.get("prompt_alt_tokens") or {}).items():
        _fill_tensor(getattr(encoded.prompt_alt_tokens, name), tensor)
    data: bytes = encoded.SerializeToString()
    return data


def _fill_tensor(encoded: Any, tensor: Mapping[str, Any]) -> None:
    name, code = ("DTYPE_INT64", "<i8") if tensor["dtype"] == "int64" else ("DTYPE_FLOAT32", "<f4")
    encoded.dtype = ENUMS["DType"].index(name)
    encoded.shape.extend(tensor["shape"])
    values = np.asarray(tensor["data"], code).tobytes()
    if "sparse_crow_indices" not in tensor:
        encoded.dense = values
        return
    encoded.sparse_csr.values = values
    encoded.sparse_csr.crow_indices = np.asarray(tensor["sparse_crow_indices"], "<i8").tobytes()
    encoded.sparse_csr.col_indices = np.asarray(tensor["sparse_col_indices"], "<i8").tobytes()


def _fill_top_k(encoded: Any, name: str, rows: Optional[Sequence[Optional[Sequence[Any]]]]) -> None:
    if rows is None:
        return
    width = max((len(row) for row in rows if row), default=1)
    cells = [cell for row in rows for cell in [*(row or ()), *[_EMPTY_CELL] * (width - len(row or ()))]]
    top = getattr(encoded, name)
    top.token_ids = np.array([token for token, _ in cells], "<i4").tobytes()
    top.logprobs = _encode_floats([logprob for _, logprob in cells])
    top.k, top.length = width, len(rows)
