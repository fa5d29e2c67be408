"""The two wires: the JSON encoding and the protobuf encoding.

Every server of protocol 0.7 accepts JSON. Protocol 0.38 added protobuf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence

from ..types import Datum, ForwardBackwardInput, ForwardBackwardOutput
from . import json_wire, metrics, protobuf_reader, protobuf_schema, protobuf_writer
from .byte_estimates import datum_bytes, protobuf_datum_bytes


@dataclass(frozen=True)
class Body:
    """An encoded request body and the endpoint it is sent to."""

    #: Name of a row of ``http.endpoints.ENDPOINTS``.
    endpoint: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Name of the wire it is encoded for, if a server may require the other wire; None: both encode it alike.
    wire: Optional[str] = None


class WireFormat(ABC):
    """How one protocol version encodes and decodes the hot messages. Immutable and thread-safe."""

    #: "json" or "protobuf".
    name: str
    #: Suffix of hashes among the metrics.
    hash_metric: str

    @abstractmethod
    def encode_batch(
        self, operation: str, batch: ForwardBackwardInput, model_id: str, seq_id: int, first_index: int = 0
    ) -> Body:
        """Encode one chunk of a batch. POST /api/v1/forward or /api/v1/forward_backward.

        Args:
            operation: "forward" or "forward_backward".
            batch: The datums of this chunk, and the loss.
            model_id: The model.
            seq_id: Sequence number of the request.
            first_index: Index of the chunk's first datum in the caller's batch, for error messages.

        Raises:
            ValueError: A loss input has no encoded form; the message has datum, key and element. JSON has none for NaN
                and infinities, which are refused before a batch is divided into chunks, for both wires.
            OverflowError: A value does not fit its type in protobuf.
            MissingExtraError: The extra ``proto`` is required and not installed.
        """

    @abstractmethod
    def estimate_datum_bytes(self, datum: Datum) -> int:
        """Return the estimated size of an encoded datum in bytes, from which chunk boundaries are computed."""

    def accept_header(self, result_type: Any) -> Dict[str, str]:
        """Return the ``Accept`` header of a poll for a result of this type; empty for the default, JSON."""
        return {}

    def decode_result(self, content: bytes, content_type: str, status_code: int, result_type: Any) -> Any:
        """Decode the body of a poll's response, in the encoding that its content type names.

        Returns:
            An instance of ``result_type`` if the body is protobuf, otherwise decoded JSON.

        Raises:
            APIResponseValidationError: The body is neither.
        """
        if protobuf_reader.CONTENT_TYPE in content_type:
            return protobuf_reader.decode(content, result_type, status_code)
        return json_wire.decode(content, content_type, status_code)

    def merge_results(self, outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
        """Merge the results of the chunks of one batch, in order; metrics are merged by their suffix."""
        return metrics.merge(outputs, self.hash_metric)


class JsonWire(WireFormat):
    """Batches and results as JSON."""

    name = "json"
    hash_metric = "hash_unordered"

    def encode_batch(
        self, operation: str, batch: ForwardBackwardInput, model_id: str, seq_id: int, first_index: int = 0
    ) -> Body:
        content = json_wire.encode_forward_backward(operation, batch, model_id, seq_id, first_index)
        return Body(operation, content, wire="json")

    def estimate_datum_bytes(self, datum: Datum) -> int:
        return datum_bytes(datum)


class ProtobufWire(WireFormat):
    """Batches as protobuf, results as protobuf or JSON.

    Args:
        is_compressed: Whether batches are compressed with zstd.
        may_send_json: Whether batches are sent as JSON if the extra ``proto`` is not installed.
    """

    name = "protobuf"
    hash_metric = "hash2"

    def __init__(self, is_compressed: bool = False, may_send_json: bool = False) -> None:
        self._is_compressed = is_compressed
        self._may_send_json = may_send_json

    def encode_batch(
        self, operation: str, batch: ForwardBackwardInput, model_id: str, seq_id: int, first_index: int = 0
    ) -> Body:
        if self._may_send_json and not protobuf_schema.reads_protobuf():
            return JsonWire().encode_batch(operation, batch, model_id, seq_id, first_index)
        headers = {"Content-Type": protobuf_reader.CONTENT_TYPE}
        content = protobuf_writer.encode_forward_backward(
            batch.data,
            batch.loss_fn,
            batch.loss_fn_config,
            model_id,
            seq_id,
            forward_only=operation == "forward",
            first_index=first_index,
        )
        if self._is_compressed:
            content, headers["Content-Encoding"] = protobuf_writer.compress(content), "zstd"
        return Body("forward_backward", content, headers, wire="protobuf")

    def estimate_datum_bytes(self, datum: Datum) -> int:
        return protobuf_datum_bytes(datum)

    def accept_header(self, result_type: Any) -> Dict[str, str]:
        if result_type in protobuf_reader.RESULTS and protobuf_schema.reads_protobuf():
            return {"Accept": f"{protobuf_reader.CONTENT_TYPE}, {json_wire.CONTENT_TYPE}"}
        return {}
