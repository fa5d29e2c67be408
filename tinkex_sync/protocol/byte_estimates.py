"""Estimates of a request's size in bytes, which do not require encoding it.

The estimates equal those of version 0.7.0 of the official SDK, and :func:`protobuf_datum_bytes` equals that of version
0.38.0. Both clients therefore compute the same chunk boundaries and throttle at the same budget. The estimates read
only lengths, so their cost depends on the number of chunks and not on the number of tokens.
"""

from __future__ import annotations

from ..types import Datum, EncodedTextChunk, ImageChunk, ModelInput, ModelInputChunk

#: Estimate for each token, and for each element of a loss input.
_BYTES_PER_ELEMENT = 10


def chunk_bytes(chunk: ModelInputChunk) -> int:
    """Estimate one chunk: 10 bytes per token, the size of an image, one byte per character of a pointer."""
    if isinstance(chunk, EncodedTextChunk):
        return _BYTES_PER_ELEMENT * len(chunk.tokens)
    if isinstance(chunk, ImageChunk):
        return len(chunk.data)
    return len(chunk.location)


def model_input_bytes(model_input: ModelInput) -> int:
    """Estimate a prompt."""
    return sum(map(chunk_bytes, model_input.chunks))


def datum_bytes(datum: Datum) -> int:
    """Estimate a datum: its prompt, and 10 bytes for each element of its loss inputs."""
    elements = sum(map(len, datum.loss_fn_inputs.values()))
    return model_input_bytes(datum.model_input) + _BYTES_PER_ELEMENT * elements


def protobuf_datum_bytes(datum: Datum) -> int:
    """Estimate a datum that is sent as protobuf.

    4 bytes per token, the size of an image, one byte per character of a pointer, 8 bytes per int64 and 4 bytes per
    float32 of the loss inputs, and 8 bytes per index of a sparse input.
    """
    total = 0
    for chunk in datum.model_input.chunks:
        total += 4 * len(chunk.tokens) if isinstance(chunk, EncodedTextChunk) else chunk_bytes(chunk)
    for tensor in datum.loss_fn_inputs.values():
        total += (8 if tensor.dtype == "int64" else 4) * len(tensor)
        total += 8 * (len(tensor.sparse_crow_indices or ()) + len(tensor.sparse_col_indices or ()))
    return total
