"""How large a request will be, roughly, without encoding it.

The official SDK's arithmetic (PROTOCOL: "Sampling dispatch"; for :func:`protobuf_datum_bytes` today's),
which decides chunk boundaries and the throttle's budget, so that both clients split and wait alike. Takes
ints and lengths only: the cost is that of the chunks, not of the tokens in them.
"""

from __future__ import annotations

from ..types import Datum, EncodedTextChunk, ImageChunk, ModelInput, ModelInputChunk

__all__ = ["chunk_bytes", "datum_bytes", "model_input_bytes", "protobuf_datum_bytes"]

#: Taken for each token, and for each element of a loss input.
_BYTES_PER_ELEMENT = 10


def chunk_bytes(chunk: ModelInputChunk) -> int:
    """Estimated bytes of one chunk: 10 per token, an image's own bytes, a pointer's characters."""
    if isinstance(chunk, EncodedTextChunk):
        return _BYTES_PER_ELEMENT * len(chunk.tokens)
    if isinstance(chunk, ImageChunk):
        return len(chunk.data)
    return len(chunk.location)


def model_input_bytes(model_input: ModelInput) -> int:
    """Estimated bytes of a prompt."""
    return sum(map(chunk_bytes, model_input.chunks))


def datum_bytes(datum: Datum) -> int:
    """Estimated bytes of a training example: its prompt, and 10 for each element of its loss inputs."""
    elements = sum(map(len, datum.loss_fn_inputs.values()))
    return model_input_bytes(datum.model_input) + _BYTES_PER_ELEMENT * elements


def protobuf_datum_bytes(datum: Datum) -> int:
    """Estimated bytes of a training example in protobuf mode.

    4 per token, an image's own bytes, a pointer's characters, 8 per int64 and 4 per float32 of the loss inputs, and
    8 per index of a sparse one.
    """
    total = 0
    for chunk in datum.model_input.chunks:
        total += 4 * len(chunk.tokens) if isinstance(chunk, EncodedTextChunk) else chunk_bytes(chunk)
    for tensor in datum.loss_fn_inputs.values():
        total += (8 if tensor.dtype == "int64" else 4) * len(tensor)
        total += 8 * (len(tensor.sparse_crow_indices or ()) + len(tensor.sparse_col_indices or ()))
    return total
