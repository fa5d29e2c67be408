"""Checkpoints, training runs, and the ``tinker://`` paths that name them."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, List, Literal, Optional

from .wire import LATER, NULLABLE, Wire

__all__ = [
    "Checkpoint",
    "CheckpointArchiveUrlResponse",
    "CheckpointType",
    "CheckpointsListResponse",
    "CopyWeightsResponse",
    "Cursor",
    "ExternalWeightsUrlsResponse",
    "ParsedCheckpointTinkerPath",
    "TrainingRun",
    "TrainingRunsResponse",
    "WeightsInfoResponse",
]

CheckpointType = Literal["training", "sampler", "external"]

_SCHEME = "tinker://"
_KIND_BY_FOLDER: Dict[str, CheckpointType] = {"weights": "training", "sampler_weights": "sampler"}


@dataclass(frozen=True, repr=False)
class ParsedCheckpointTinkerPath(Wire):
    """A ``tinker://RUN/weights/NAME`` or ``tinker://RUN/sampler_weights/NAME`` path, taken apart."""

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    #: The last two parts, such as ``weights/NAME``, as the checkpoint endpoints want it.
    checkpoint_id: str

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> "ParsedCheckpointTinkerPath":
        """Take a path apart; ValueError unless it has exactly these three parts."""
        run, folder, name = _three_parts(tinker_path)
        kind = _KIND_BY_FOLDER.get(folder)
        if kind is None:
            raise ValueError(f"Invalid tinker path: {tinker_path}")
        return cls(tinker_path, run, kind, f"{folder}/{name}")


def _three_parts(tinker_path: str) -> List[str]:
    parts = tinker_path[len(_SCHEME) :].split("/")
    if not tinker_path.startswith(_SCHEME) or len(parts) != 3:
        raise ValueError(f"Invalid tinker path: {tinker_path}")
    return parts


@dataclass(frozen=True, repr=False)
class Checkpoint(Wire):
    """A saved checkpoint. ``time`` is None where a server does not keep it; without a zone it is UTC."""

    checkpoint_id: str
    checkpoint_type: CheckpointType
    time: Optional[datetime] = field(metadata=NULLABLE)
    tinker_path: str
    size_bytes: Optional[int] = None
    #: Anyone may read it.
    public: bool = False
    #: Labels of its save, and when the server will delete it; of the protocol after 0.7.0.
    user_metadata: Optional[Dict[str, str]] = field(default=None, metadata=LATER)
    expires_at: Optional[datetime] = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class Cursor(Wire):
    """Where a page of a listing stands in the whole."""

    offset: int
    limit: int
    total_count: int


@dataclass(frozen=True, repr=False)
class CheckpointsListResponse(Wire):
    """``GET /api/v1/checkpoints``, and ``GET /api/v1/training_runs/{id}/checkpoints`` (no cursor)."""

    checkpoints: List[Checkpoint]
    cursor: Optional[Cursor] = None


@dataclass(frozen=True, repr=False)
class CheckpointArchiveUrlResponse(Wire):
    """A signed URL of a checkpoint's archive, good until ``expires`` (UTC)."""

    url: str
    expires: datetime


@dataclass(frozen=True, repr=False)
class TrainingRun(Wire):
    """A model that is or was trained. ``last_request_time`` is None where a server does not keep it."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool
    corrupted: bool = False
    lora_rank: Optional[int] = None
    last_request_time: Optional[datetime] = field(default=None, metadata=NULLABLE)
    last_checkpoint: Optional[Checkpoint] = None
    last_sampler_checkpoint: Optional[Checkpoint] = None
    user_metadata: Optional[Dict[str, str]] = None


@dataclass(frozen=True, repr=False)
class TrainingRunsResponse(Wire):
    """``GET /api/v1/training_runs``."""

    training_runs: List[TrainingRun]
    cursor: Cursor


@dataclass(frozen=True, repr=False)
class WeightsInfoResponse(Wire):
    """``POST /api/v1/weights_info``: what to create before these weights can be loaded."""

    base_model: str
    is_lora: bool
    lora_rank: Optional[int] = None
    #: By what they were trained, such as {"type": "adamw"}, and which layers have adapters; None: not said.
    optimizer_config: Optional[Dict[str, Any]] = field(default=None, metadata=LATER)
    train_unembed: Optional[bool] = field(default=None, metadata=LATER)
    train_mlp: Optional[bool] = field(default=None, metadata=LATER)
    train_attn: Optional[bool] = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class CopyWeightsResponse(Wire):
    """``POST /api/v1/copy_weights``: where the copy is."""

    tinker_path: str


@dataclass(frozen=True, repr=False)
class ExternalWeightsUrlsResponse(Wire):
    """Signed URLs of weights saved for use elsewhere, by file name, good until ``expires`` (UTC)."""

    urls: Dict[str, str]
    expires: datetime
