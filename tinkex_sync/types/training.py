"""Training: the model to train, forward and backward, the optimizer, saving and loading."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Union

from .inputs import Datum
from .scalars import FieldError
from .tensors import TensorData
from .wire import LATER, NULLABLE, UNSENT, Wire

__all__ = [
    "AdamOptimizerConfig",
    "AdamParams",
    "CreateModelRequest",
    "CreateModelResponse",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "ForwardBackwardInput",
    "ForwardBackwardOutput",
    "ForwardBackwardRequest",
    "ForwardRequest",
    "GetInfoRequest",
    "GetInfoResponse",
    "LoadWeightsRequest",
    "LoadWeightsResponse",
    "LoraConfig",
    "LossFnOutput",
    "LossFnType",
    "ModelData",
    "ModelID",
    "OptimParams",
    "OptimStepRequest",
    "OptimStepResponse",
    "OptimizerConfig",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsForSamplerResponseInternal",
    "SaveWeightsRequest",
    "SaveWeightsResponse",
    "UnloadModelRequest",
    "UnloadModelResponse",
]

ModelID = str
LossFnType = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "custom"
]
LossFnOutput = Dict[str, TensorData]


def _in_range(params: Any, name: str, good: bool, rule: str) -> None:
    value = getattr(params, name)
    if not (good and math.isfinite(value)):
        owner = type(params).__name__
        raise FieldError(f"must be finite and {rule}, not {value!r}").inside(name, owner=owner)


@dataclass(frozen=True, repr=False)
class AdamParams(Wire):
    """One step of AdamW: moments ``beta1`` and ``beta2``, decoupled weight decay, clipping by global norm.

    All fields are sent, so a run does not depend on a server's defaults. Out of range is a ValueError:
    ``learning_rate``, ``weight_decay`` and ``grad_clip_norm`` are at least 0, the betas in [0, 1), ``eps``
    above 0, all finite.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    #: Each step shrinks a weight by ``learning_rate * weight_decay`` of itself.
    weight_decay: float = 0.0
    #: Largest L2 norm over all gradients; 0 means no clipping.
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "weight_decay", "grad_clip_norm"):
            _in_range(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("beta1", "beta2"):
            _in_range(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        _in_range(self, "eps", self.eps > 0, "above 0")


@dataclass(frozen=True, repr=False)
class DimuonParams(Wire):
    """One step of Dimuon, for a model made with :class:`DimuonOptimizerConfig`. Of the protocol after 0.7.0.

    All fields are sent. Out of range is a ValueError: ``learning_rate`` and ``grad_clip_norm`` are at least 0,
    ``beta1`` in [0, 1), all finite.
    """

    learning_rate: float
    #: Largest L2 norm over all gradients; 0 means no clipping.
    grad_clip_norm: float = 0.0
    beta1: float = 0.9
    type: Literal["dimuon"] = "dimuon"

    _wire_order = ("type",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("learning_rate", "grad_clip_norm"):
            _in_range(self, name, getattr(self, name) >= 0, "at least 0")
        _in_range(self, "beta1", 0 <= self.beta1 < 1, "at least 0 and below 1")


@dataclass(frozen=True, repr=False)
class AdamOptimizerConfig(Wire):
    """A model is trained by AdamW, which is also the default. Of the protocol after 0.7.0."""

    type: Literal["adamw"] = "adamw"


@dataclass(frozen=True, repr=False)
class DimuonOptimizerConfig(Wire):
    """A model is trained by Dimuon, with :class:`DimuonParams` at each step. Of the protocol after 0.7.0."""

    type: Literal["dimuon"] = "dimuon"
    version: int = 1


#: What a step of either optimizer takes.
OptimParams = Union[AdamParams, DimuonParams]
OptimizerConfig = Union[AdamOptimizerConfig, DimuonOptimizerConfig]


@dataclass(frozen=True, repr=False)
class LoraConfig(Wire):
    """Which low-rank adapters to train. All fields are sent, ``seed`` as null when it is None."""

    rank: int
    #: For the first values of the adapters; None leaves it to the server.
    seed: Optional[int] = field(default=None, metadata=NULLABLE)
    #: The unembedding layer.
    train_unembed: bool = True
    #: The MLP layers, experts included.
    train_mlp: bool = True
    #: The attention layers.
    train_attn: bool = True


@dataclass(frozen=True, repr=False)
class CreateModelRequest(Wire):
    """``POST /api/v1/create_model``. ``user_metadata`` None is sent as ``{}``: servers refuse a null."""

    session_id: str
    model_seq_id: int
    base_model: str
    user_metadata: Optional[Dict[str, Any]] = None
    lora_config: Optional[LoraConfig] = None
    type: str = field(default="create_model", metadata=UNSENT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.user_metadata is None:
            object.__setattr__(self, "user_metadata", {})


@dataclass(frozen=True, repr=False)
class CreateModelResponse(Wire):
    """The model is ready; ``model_id`` is the training run's id."""

    model_id: ModelID
    type: str = "create_model"


@dataclass(frozen=True, repr=False)
class GetInfoRequest(Wire):
    """``POST /api/v1/get_info``."""

    model_id: ModelID
    type: str = field(default="get_info", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class ModelData(Wire):
    """What a model is made of; any of it may be unknown."""

    arch: Optional[str] = None
    model_name: Optional[str] = None
    tokenizer_id: Optional[str] = None


@dataclass(frozen=True, repr=False)
class GetInfoResponse(Wire):
    """A model's base and adapter."""

    model_data: ModelData
    model_id: ModelID
    is_lora: Optional[bool] = None
    lora_rank: Optional[int] = None
    model_name: Optional[str] = None
    type: Optional[str] = None
    #: By what it is trained, such as {"type": "adamw"}; None where the server does not say.
    optimizer_config: Optional[Dict[str, Any]] = field(default=None, metadata=LATER)


@dataclass(frozen=True, repr=False)
class UnloadModelRequest(Wire):
    """``POST /api/v1/unload_model``."""

    model_id: ModelID
    type: str = field(default="unload_model", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class UnloadModelResponse(Wire):
    """The model is gone."""

    model_id: ModelID
    type: Optional[str] = None


@dataclass(frozen=True, repr=False)
class ForwardBackwardInput(Wire):
    """A batch and its loss. ``loss_fn_config`` (clip thresholds and so on) None is sent as null."""

    data: List[Datum]
    loss_fn: LossFnType
    loss_fn_config: Optional[Dict[str, float]] = field(default=None, metadata=NULLABLE)


@dataclass(frozen=True, repr=False)
class ForwardRequest(Wire):
    """``POST /api/v1/forward``: losses without gradients."""

    forward_input: ForwardBackwardInput
    model_id: ModelID
    seq_id: Optional[int] = None


@dataclass(frozen=True, repr=False)
class ForwardBackwardRequest(Wire):
    """``POST /api/v1/forward_backward``: gradients are added to those the model holds already."""

    forward_backward_input: ForwardBackwardInput
    model_id: ModelID
    seq_id: Optional[int] = None


@dataclass(frozen=True, repr=False)
class ForwardBackwardOutput(Wire):
    """Result of a forward or forward-backward pass.

    ``loss_fn_outputs`` has one dict of tensors per datum, in the order given; ``metrics`` keys are
    ``name:reduction`` (PROTOCOL: "Metric merging").
    """

    loss_fn_output_type: str
    loss_fn_outputs: List[LossFnOutput]
    metrics: Dict[str, float]


@dataclass(frozen=True, repr=False)
class OptimStepRequest(Wire):
    """``POST /api/v1/optim_step``."""

    adam_params: AdamParams
    model_id: ModelID
    seq_id: Optional[int] = None
    type: str = field(default="optim_step", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class OptimStepResponse(Wire):
    """The step was taken."""

    metrics: Optional[Dict[str, float]] = None


@dataclass(frozen=True, repr=False)
class SaveWeightsRequest(Wire):
    """``POST /api/v1/save_weights``: weights and optimizer state. ``path`` is the checkpoint's name."""

    model_id: ModelID
    path: Optional[str] = None
    seq_id: Optional[int] = None
    type: str = field(default="save_weights", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class SaveWeightsResponse(Wire):
    """``path`` is the checkpoint's ``tinker://`` path."""

    path: str
    type: Optional[str] = None


@dataclass(frozen=True, repr=False)
class SaveWeightsExternalResponse(Wire):
    """``path`` is the ``tinker://`` path of files to download; ``size_bytes`` is that of all of them."""

    path: str
    size_bytes: Optional[int] = None
    type: Optional[str] = None


@dataclass(frozen=True, repr=False)
class SaveWeightsForSamplerRequest(Wire):
    """``POST /api/v1/save_weights_for_sampler``: under a name (``path``), or for one sampling session."""

    model_id: ModelID
    path: Optional[str] = None
    sampling_session_seq_id: Optional[int] = None
    seq_id: Optional[int] = None
    type: str = field(default="save_weights_for_sampler", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class SaveWeightsForSamplerResponseInternal(Wire):
    """What the server answers: ``path`` for a named save, ``sampling_session_id`` for an ephemeral one."""

    path: Optional[str] = None
    sampling_session_id: Optional[str] = None
    type: Optional[str] = None


@dataclass(frozen=True, repr=False)
class SaveWeightsForSamplerResponse(Wire):
    """``path`` is the sampler checkpoint's ``tinker://`` path."""

    path: str
    type: Optional[str] = None


@dataclass(frozen=True, repr=False)
class LoadWeightsRequest(Wire):
    """``POST /api/v1/load_weights``: from a ``tinker://`` path, with the optimizer's state or without."""

    model_id: ModelID
    path: str
    optimizer: bool
    seq_id: Optional[int] = None
    type: str = field(default="load_weights", metadata=UNSENT)


@dataclass(frozen=True, repr=False)
class LoadWeightsResponse(Wire):
    """The weights are loaded."""

    path: Optional[str] = None
    type: Optional[str] = None
    #: The model they were loaded into, where the server says.
    model_id: Optional[ModelID] = field(default=None, metadata=LATER)
