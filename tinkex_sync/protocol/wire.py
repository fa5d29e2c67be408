"""The interface of the two wires: how training batches are encoded and how results are decoded and merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence

from ..types import Datum, ForwardBackwardInput, ForwardBackwardOutput


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
            ValueError: A loss input is NaN or infinite. The message names datum, key and element.
            MissingExtraError: The extra ``proto`` is required and not installed.
        """

    @abstractmethod
    def estimate_datum_bytes(self, datum: Datum) -> int:
        """Return the estimated size of an encoded datum in bytes, from which chunk boundaries are computed."""

    @abstractmethod
    def accept_header(self, result_type: Any) -> Dict[str, str]:
        """Return the ``Accept`` header of a poll for a result of this type; empty for the default, JSON."""

    @abstractmethod
    def decode_result(self, content: bytes, content_type: str, status_code: int, result_type: Any) -> Any:
        """Decode the body of a poll's response, in the encoding that its content type names.

        Returns:
            An instance of ``result_type`` if the body is protobuf, otherwise decoded JSON.

        Raises:
            APIResponseValidationError: The body is neither.
        """

    @abstractmethod
    def merge_results(self, outputs: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
        """Merge the results of the chunks of one batch, in order; metrics are merged by their suffix."""
