"""Checkpoints, training runs, and the ``tinker://`` paths that name them."""

import re
from dataclasses import field
from datetime import datetime
from typing import Any, Dict, List, Literal, Optional

from .wire import SENT_AS_NULL, Wire, since

__all__ = [
    "Checkpoint", "CheckpointArchiveUrlResponse", "CheckpointType", "CheckpointsListResponse",
    "CopyWeightsRequest", "CopyWeightsResponse", "Cursor", "ExternalWeightsUrlsResponse",
    "ParsedCheckpointTinkerPath", "SetCheckpointTtlRequest", "TrainingRun", "TrainingRunsResponse",
    "WeightsInfoRequest", "WeightsInfoResponse",
]  # fmt: skip

CheckpointType = Literal["training", "sampler", "external"]

_PATH = re.compile("tinker://([^/]*)/(weights|sampler_weights)/([^/]*)")


class ParsedCheckpointTinkerPath(Wire):
    """The parts of a path ``tinker://RUN/weights/NAME`` or ``tinker://RUN/sampler_weights/NAME``."""

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    #: The last two parts, such as ``weights/NAME``, which the checkpoint endpoints have in their paths.
    checkpoint_id: str

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> "ParsedCheckpointTinkerPath":
        """Split a path; ValueError unless it has exactly these three parts."""
        parts = _PATH.fullmatch(tinker_path)
        if parts is None:
            raise ValueError(f"Invalid tinker path: {tinker_path}")
        run, folder, name = parts.groups()
        return cls(tinker_path, run, "training" if folder == "weights" else "sampler", f"{folder}/{name}")


class Checkpoint(Wire):
    """A saved checkpoint. ``time`` is None if the server does not record it; a time without a zone is UTC."""

    checkpoint_id: str
    checkpoint_type: CheckpointType
    time: Optional[datetime] = field(metadata=SENT_AS_NULL)
    tinker_path: str
    size_bytes: Optional[int] = None
    #: Every account may read it.
    public: bool = False
    #: Labels given when it was saved, and the time at which the server deletes it.
    user_metadata: Optional[Dict[str, str]] = field(default=None, metadata=since("0.38.0"))
    expires_at: Optional[datetime] = field(default=None, metadata=since("0.38.0"))


class Cursor(Wire):
    """The position of a page in a listing."""

    offset: int
    limit: int
    total_count: int


class CheckpointsListResponse(Wire):
    """Response of ``GET /api/v1/checkpoints`` and ``GET /api/v1/training_runs/{id}/checkpoints`` (no cursor)."""

    checkpoints: List[Checkpoint]
    cursor: Optional[Cursor] = None


class CheckpointArchiveUrlResponse(Wire):
    """A signed URL of a checkpoint's archive, valid until ``expires`` (UTC)."""

    url: str
    expires: datetime


class TrainingRun(Wire):
    """A model that is or was trained. ``last_request_time`` is None if the server does not record it."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool
    corrupted: bool = False
    lora_rank: Optional[int] = None
    last_request_time: Optional[datetime] = field(default=None, metadata=SENT_AS_NULL)
    last_checkpoint: Optional[Checkpoint] = None
    last_sampler_checkpoint: Optional[Checkpoint] = None
    user_metadata: Optional[Dict[str, str]] = None


class TrainingRunsResponse(Wire):
    """Response of ``GET /api/v1/training_runs``."""

    training_runs: List[TrainingRun]
    cursor: Cursor


class WeightsInfoRequest(Wire):
    """Body of ``POST /api/v1/weights_info``."""

    tinker_path: str


class WeightsInfoResponse(Wire):
    """Response of ``POST /api/v1/weights_info``: the model that these weights can be loaded into."""

    base_model: str
    is_lora: bool
    lora_rank: Optional[int] = None
    #: The optimizer, such as {"type": "adamw"}, and the layers that have adapters; None if the server does not send it.
    optimizer_config: Optional[Dict[str, Any]] = field(default=None, metadata=since("0.38.0"))
    train_unembed: Optional[bool] = field(default=None, metadata=since("0.38.0"))
    train_mlp: Optional[bool] = field(default=None, metadata=since("0.38.0"))
    train_attn: Optional[bool] = field(default=None, metadata=since("0.38.0"))


class SetCheckpointTtlRequest(Wire):
    """Body of ``PUT .../checkpoints/{id}/ttl`` (0.38.0). ``ttl_seconds`` None, sent as null, keeps it forever."""

    ttl_seconds: Optional[int] = field(metadata=SENT_AS_NULL)


class CopyWeightsRequest(Wire):
    """Body of ``POST /api/v1/copy_weights`` (0.38.0).

    A copy without ``destination_project_id`` is a model of the session, with a ``model_seq_id`` of its own.
    """

    source_path: str
    destination_project_id: Optional[str] = None
    ttl_seconds: Optional[int] = None
    session_id: Optional[str] = None
    model_seq_id: Optional[int] = None


class CopyWeightsResponse(Wire):
    """Response of ``POST /api/v1/copy_weights``: the path of the copy."""

    tinker_path: str


class ExternalWeightsUrlsResponse(Wire):
    """Signed URLs of exported weights by file name, valid until ``expires`` (UTC)."""

    urls: Dict[str, str]
    expires: datetime
