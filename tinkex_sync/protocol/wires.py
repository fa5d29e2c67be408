"""The two wires: JSON, which every server of protocol 0.7 accepts, and protobuf, which came with 0.38."""

from __future__ import annotations

from typing import Any, Dict, Sequence

from ..types import Datum, ForwardBackwardInput, ForwardBackwardOutput
from . import json_wire, metrics, protobuf_writer
from .byte_estimates import datum_bytes, protobuf_datum_bytes
from .wire import Body, WireFormat


class JsonWire(WireFormat):
    """Batches and results as JSON."""

    name = "json"

    def encode_batch(
        self, operation: str, batch: ForwardBackwardInput, model_id: str, seq_id: int, first_index: int = 0
    ) -> Body:
        content = json_wire.encode_forward_backward(
            operation,
            batch.data,
            batch.loss_fn,
            batch.loss_fn_config,
            model_id,
            seq_id,
            first_index=first_index,
        )
        return Body(operation, content, wire="json")

    def estimate_datum_bytes(self, datum: Datum) -> int:
        return datum_bytes(datum)

    def accept_header(self, result_type: Any) -> Dict[str, str]:
        return {}

    def decode_result(self, content: bytes, content_type: str, status_code: int, result_type: Any) -> Any:
        return json_wire.decode_result(content, content_type, status_code, result_type)

    def merge_results(self, outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
        return metrics.merge(outputs)


class ProtobufWire(WireFormat):
    """Batches as protobuf, results as protobuf or JSON.

    Args:
        is_compressed: Whether batches are compressed with zstd.
        may_send_json: Whether batches are sent as JSON if the extra ``proto`` is not installed.
    """

    name = "protobuf"

    def __init__(self, is_compressed: bool = False, may_send_json: bool = False) -> None:
        self._is_compressed = is_compressed
        self._may_send_json = may_send_json

    def encode_batch(
        self, operation: str, batch: ForwardBackwardInput, model_id: str, seq_id: int, first_index: int = 0
    ) -> Body:
        if self._may_send_json and not json_wire.reads_protobuf():
            return JsonWire().encode_batch(operation, batch, model_id, seq_id, first_index)
        headers = {"Content-Type": json_wire.PROTOBUF}
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
        return json_wire.accept_header(result_type)

    def decode_result(self, content: bytes, content_type: str, status_code: int, result_type: Any) -> Any:
        return json_wire.decode_result(content, content_type, status_code, result_type)

    def merge_results(self, outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
        return metrics.merge(outputs, hash_metric="hash2")
