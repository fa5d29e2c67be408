"""Training: creating a model, forward and backward passes, optimizer steps, saving and loading."""

import math
from dataclasses import field
from typing import Any, Callable, Dict, List, Literal, Mapping, Optional, Union

from .decoders import FieldError, decode_at, number, shorten, text
from .inputs import Datum
from .tensors import TensorData
from .wire import NOT_SENT, SENT_AS_NULL, FastWire, Wire, coding, since

__all__ = [
    "AdamOptimizerConfig", "AdamParams", "CreateModelFromWeightsRequest", "CreateModelRequest",
    "CreateModelResponse", "DimuonOptimizerConfig", "DimuonParams", "ForwardBackwardInput",
    "ForwardBackwardOutput", "ForwardBackwardRequest", "ForwardRequest", "GetInfoRequest", "GetInfoResponse",
    "LoadWeightsRequest", "LoadWeightsResponse", "LoraConfig", "LossFnOutput", "LossFnType", "ModelData",
    "ModelID", "OptimParams", "OptimStepRequest", "OptimStepResponse", "OptimizerConfig",
    "SaveWeightsExternalRequest", "SaveWeightsExternalResponse", "SaveWeightsForSamplerRequest",
    "SaveWeightsForSamplerResponse", "SaveWeightsForSamplerResponseInternal", "SaveWeightsRequest",
    "SaveWeightsResponse", "UnloadModelRequest", "UnloadModelResponse",
]  # fmt: skip

ModelID = str
#: The last three came with protocol 0.38.0.
LossFnType = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "custom"
]
LossFnOutput = Dict[str, TensorData]


def _in_range(is_good: Callable[[float], bool], rule: str) -> Dict[str, Any]:
    """Return the metadata of a finite number that must follow a rule."""

    def decode(value: Any) -> float:
        decoded = number(value)
        if not (is_good(decoded) and math.isfinite(decoded)):
            raise FieldError(f"must be finite and {rule}, not {decoded!r}")
        return decoded

    return coding(decode)


_AT_LEAST_0 = _in_range(lambda value: value >= 0, "at least 0")
_FRACTION = _in_range(lambda value: 0 <= value < 1, "at least 0 and below 1")
_ABOVE_0 = _in_range(lambda value: value > 0, "above 0")


class AdamParams(Wire):
    """Parameters of one AdamW step: moments, decoupled weight decay, and clipping by the global norm.

    All fields are sent, so that a run does not depend on a server's defaults.

    Raises:
        ValueError: A value is out of range. ``learning_rate``, ``weight_decay`` and ``grad_clip_norm`` are at least 0,
            ``beta1`` and ``beta2`` are in [0, 1), ``eps`` is above 0, and all are finite.
    """

    learning_rate: float = field(default=1e-4, metadata=_AT_LEAST_0)
    beta1: float = field(default=0.9, metadata=_FRACTION)
    beta2: float = field(default=0.95, metadata=_FRACTION)
    eps: float = field(default=1e-12, metadata=_ABOVE_0)
    #: Each step reduces a weight by ``learning_rate * weight_decay`` times its value.
    weight_decay: float = field(default=0.0, metadata=_AT_LEAST_0)
    #: Largest L2 norm of all gradients together; 0 disables clipping.
    grad_clip_norm: float = field(default=0.0, metadata=_AT_LEAST_0)


class DimuonParams(Wire):
    """Parameters of one Dimuon step (0.38.0), for a model created with :class:`DimuonOptimizerConfig`; all are sent.

    Raises:
        ValueError: A value is out of range. ``learning_rate`` and ``grad_clip_norm`` are at least 0, ``beta1`` is in
            [0, 1), and all are finite.
    """

    learning_rate: float = field(metadata=_AT_LEAST_0)
    #: Largest L2 norm of all gradients together; 0 disables clipping.
    grad_clip_norm: float = field(default=0.0, metadata=_AT_LEAST_0)
    beta1: float = field(default=0.9, metadata=_FRACTION)
    type: Literal["dimuon"] = "dimuon"

    wire_order = ("type",)


class AdamOptimizerConfig(Wire):
    """The model's optimizer is AdamW, which is also the default (0.38.0)."""

    type: Literal["adamw"] = "adamw"


class DimuonOptimizerConfig(Wire):
    """The model's optimizer is Dimuon; each step has :class:`DimuonParams` (0.38.0)."""

    type: Literal["dimuon"] = "dimuon"
    version: int = 1


#: Parameters of one step of either optimizer.
OptimParams = Union[AdamParams, DimuonParams]
OptimizerConfig = Union[AdamOptimizerConfig, DimuonOptimizerConfig]


def _optimizer_config(value: Any) -> OptimizerConfig:
    kinds: Dict[str, Any] = {"adamw": AdamOptimizerConfig, "dimuon": DimuonOptimizerConfig}
    if isinstance(value, (AdamOptimizerConfig, DimuonOptimizerConfig)):
        return value
    kind = kinds.get(str(value.get("type"))) if isinstance(value, dict) else None
    if kind is None:
        raise FieldError(f"must be AdamOptimizerConfig or DimuonOptimizerConfig, not {shorten(value)}")
    config: OptimizerConfig = kind.model_validate(value)
    return config


#: Metadata of an optional field of a request that holds an :data:`OptimizerConfig`.
_OPTIMIZER_CONFIG = {**since("0.38.0"), **coding(_optimizer_config, lambda config: config.to_wire())}


class LoraConfig(Wire):
    """The low-rank adapters to train. All fields are sent; ``seed`` is sent as null if it is None."""

    rank: int
    #: Seed of the adapters' initial values; with None the server chooses one.
    seed: Optional[int] = field(default=None, metadata=SENT_AS_NULL)
    #: Train an adapter of the unembedding layer.
    train_unembed: bool = True
    #: Train adapters of the MLP layers, including experts.
    train_mlp: bool = True
    #: Train adapters of the attention layers.
    train_attn: bool = True


class CreateModelRequest(Wire):
    """Body of ``POST /api/v1/create_model``. ``user_metadata`` None is sent as ``{}``, because servers reject null."""

    session_id: str
    model_seq_id: int
    base_model: str
    user_metadata: Optional[Dict[str, Any]] = None
    lora_config: Optional[LoraConfig] = None
    optimizer_config: Optional[OptimizerConfig] = field(default=None, metadata=_OPTIMIZER_CONFIG)
    type: str = field(default="create_model", metadata=NOT_SENT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.user_metadata is None:
            object.__setattr__(self, "user_metadata", {})


class CreateModelFromWeightsRequest(Wire):
    """Body of ``POST /api/v1/load_weights`` in the form that creates its model (0.38.0).

    Fields that are None are taken from the checkpoint, or chosen by the server. ``weights_access_token`` is a secret
    that gives access to weights of another account; repr does not show it.
    """

    session_id: str
    model_seq_id: int
    path: str
    optimizer: bool
    base_model: Optional[str] = None
    user_metadata: Optional[Dict[str, Any]] = None
    optimizer_config: Optional[OptimizerConfig] = field(default=None, metadata=_OPTIMIZER_CONFIG)
    weights_access_token: Optional[str] = field(default=None, repr=False)


class CreateModelResponse(Wire):
    """The model was created; ``model_id`` is the id of the training run."""

    model_id: ModelID
    type: str = "create_model"


class GetInfoRequest(Wire):
    """Body of ``POST /api/v1/get_info``."""

    model_id: ModelID
    type: str = field(default="get_info", metadata=NOT_SENT)


class ModelData(Wire):
    """The base of a model. A field is None if the server does not send it."""

    arch: Optional[str] = None
    model_name: Optional[str] = None
    tokenizer_id: Optional[str] = None


class GetInfoResponse(Wire):
    """The base and the adapter of a model."""

    model_data: ModelData
    model_id: ModelID
    is_lora: Optional[bool] = None
    lora_rank: Optional[int] = None
    model_name: Optional[str] = None
    type: Optional[str] = None
    #: The optimizer, such as {"type": "adamw"}; None if the server does not send it.
    optimizer_config: Optional[Dict[str, Any]] = field(default=None, metadata=since("0.38.0"))


class UnloadModelRequest(Wire):
    """Body of ``POST /api/v1/unload_model``."""

    model_id: ModelID
    type: str = field(default="unload_model", metadata=NOT_SENT)


class UnloadModelResponse(Wire):
    """The model was unloaded."""

    model_id: ModelID
    type: Optional[str] = None


class ForwardBackwardInput(FastWire):
    """A batch and its loss function. ``loss_fn_config``, such as clip thresholds, is sent as null if it is None."""

    data: List[Datum]
    loss_fn: LossFnType
    loss_fn_config: Optional[Dict[str, float]] = field(default=None, metadata=SENT_AS_NULL)


class ForwardRequest(FastWire):
    """Body of ``POST /api/v1/forward``, which computes losses without gradients."""

    forward_input: ForwardBackwardInput
    model_id: ModelID
    seq_id: Optional[int] = None


class ForwardBackwardRequest(FastWire):
    """Body of ``POST /api/v1/forward_backward``, which adds gradients to those that the model already has."""

    forward_backward_input: ForwardBackwardInput
    model_id: ModelID
    seq_id: Optional[int] = None


def _metrics(values: Any) -> Dict[str, float]:
    if not isinstance(values, Mapping):
        raise FieldError(f"expected an object, not {shorten(values)}")
    return {
        decode_at(str(key), text, key): math.nan if value is None else decode_at(str(key), number, value)
        for key, value in values.items()
    }


class ForwardBackwardOutput(FastWire):
    """The result of a forward or forward-backward pass.

    Attributes:
        loss_fn_outputs: One dict of tensors per datum, in the order of the batch.
        metrics: Values by ``name:reduction``, as in version 0.7.0 of the official SDK. A null is decoded as NaN.
    """

    loss_fn_output_type: str
    loss_fn_outputs: List[LossFnOutput]
    metrics: Dict[str, float] = field(metadata=coding(_metrics))


class OptimStepRequest(Wire):
    """Body of ``POST /api/v1/optim_step``, with ``adam_params`` or ``optimizer_params``; the other one is None."""

    adam_params: Optional[AdamParams]
    model_id: ModelID
    seq_id: Optional[int] = None
    type: str = field(default="optim_step", metadata=NOT_SENT)
    optimizer_params: Optional[DimuonParams] = field(default=None, metadata=since("0.38.0"))

    wire_order = ("adam_params", "model_id", "optimizer_params")


class OptimStepResponse(Wire):
    """The optimizer step was applied."""

    #: NaN for null, which JSON has instead of NaN.
    metrics: Optional[Dict[str, float]] = field(default=None, metadata=coding(_metrics))


class SaveWeightsRequest(Wire):
    """Body of ``POST /api/v1/save_weights``, which saves weights and optimizer state.

    Attributes:
        path: The checkpoint's name.
        ttl_seconds: Seconds after which the server deletes it.
        user_metadata: Labels stored with it.
        overwrite: True to replace a checkpoint of the same name.
    """

    model_id: ModelID
    path: Optional[str] = None
    ttl_seconds: Optional[int] = field(default=None, metadata=since("0.38.0"))
    user_metadata: Optional[Dict[str, str]] = field(default=None, metadata=since("0.38.0"))
    overwrite: Optional[bool] = field(default=None, metadata=since("0.38.0"))
    seq_id: Optional[int] = None
    type: str = field(default="save_weights", metadata=NOT_SENT)


class SaveWeightsResponse(Wire):
    """``path`` is the checkpoint's ``tinker://`` path."""

    path: str
    type: Optional[str] = None


class SaveWeightsExternalRequest(Wire):
    """Body of ``POST /api/v1/save_weights_external`` (0.38.0), which saves weights for download under a name.

    ``age_encryption_recipients`` are public keys of age, for which the files are encrypted.
    """

    model_id: ModelID
    path: str
    ttl_seconds: Optional[int] = None
    age_encryption_recipients: Optional[List[str]] = None
    seq_id: Optional[int] = None


class SaveWeightsExternalResponse(Wire):
    """``path`` is the ``tinker://`` path of the files to download; ``size_bytes`` is their total size."""

    path: str
    size_bytes: Optional[int] = None
    type: Optional[str] = None


class SaveWeightsForSamplerRequest(Wire):
    """Body of ``POST /api/v1/save_weights_for_sampler``: under a name (``path``), or for one sampling session.

    Attributes:
        ttl_seconds, user_metadata: As in :class:`SaveWeightsRequest`, for a save under a name.
        kind: For one sampling session: whether samples in progress continue with the old or the new weights.
    """

    model_id: ModelID
    path: Optional[str] = None
    ttl_seconds: Optional[int] = field(default=None, metadata=since("0.38.0"))
    user_metadata: Optional[Dict[str, str]] = field(default=None, metadata=since("0.38.0"))
    sampling_session_seq_id: Optional[int] = None
    kind: Optional[Literal["snapshot", "inflight"]] = field(default=None, metadata=since("0.38.0"))
    seq_id: Optional[int] = None
    type: str = field(default="save_weights_for_sampler", metadata=NOT_SENT)


class SaveWeightsForSamplerResponseInternal(Wire):
    """The server's response: ``path`` for a save under a name, ``sampling_session_id`` for one sampling session."""

    path: Optional[str] = None
    sampling_session_id: Optional[str] = None
    type: Optional[str] = None


class SaveWeightsForSamplerResponse(Wire):
    """``path`` is the sampler checkpoint's ``tinker://`` path."""

    path: str
    type: Optional[str] = None


class LoadWeightsRequest(Wire):
    """Body of ``POST /api/v1/load_weights``, from a ``tinker://`` path, with or without the optimizer state.

    ``weights_access_token`` is a secret that gives access to weights of another account; repr does not show it.
    """

    model_id: ModelID
    path: str
    optimizer: bool
    weights_access_token: Optional[str] = field(default=None, repr=False, metadata=since("0.38.0"))
    seq_id: Optional[int] = None
    type: str = field(default="load_weights", metadata=NOT_SENT)


class LoadWeightsResponse(Wire):
    """The weights were loaded."""

    path: Optional[str] = None
    type: Optional[str] = None
    #: The model they were loaded into; None if the server does not send it.
    model_id: Optional[ModelID] = field(default=None, metadata=since("0.38.0"))
