"""Creation of the model of a training client: a new adapter, or one with the weights of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Union

from .. import types
from ..errors import APIStatusError
from ..http.call_state import CallState
from ..http.request import Request
from ..polling.poller import ServerFuture, poll
from ..polling.queue_states import QueueStates
from ..session import Session
from ..validation import check_labels, check_model_path, check_optional_text, check_text
from .training import TrainingClient


class NothingToTrainError(ValueError, AssertionError):
    """No layer gets an adapter. It is an AssertionError too, because the official client raises that."""


@dataclass(frozen=True)
class NewModel:
    """A LoRA adapter to create on a base model. The constructor raises ValueError or TypeError."""

    base_model: str
    lora_config: types.LoraConfig
    user_metadata: Optional[Mapping[str, Any]] = None
    optimizer: Optional[types.OptimizerConfig] = None
    #: Path of the weights that are loaded afterwards, for observers.
    model_path: Optional[str] = None

    def __post_init__(self) -> None:
        check_text("base_model", self.base_model)
        layers = self.lora_config
        if not (layers.train_mlp or layers.train_attn or layers.train_unembed):
            raise NothingToTrainError("at least one of train_mlp, train_attn and train_unembed must be True")
        _check_optimizer_config(self.optimizer)

    def create(
        self, session: Session, call: CallState, deadline: Optional[float], number: Optional[int] = None
    ) -> TrainingClient:
        """Create the model and return its client. POST /api/v1/create_model.

        Args:
            number: The model's ``model_seq_id``; None: the session's next one.
        """
        body = types.CreateModelRequest(
            session.session_id,
            session.next_number("model_seq_id") if number is None else number,
            self.base_model,
            dict(self.user_metadata or {}),
            self.lora_config,
            self.optimizer,
        )
        training = _create("create_model", body, session, call, deadline)
        facts = {"base_model": self.base_model, "rank": self.lora_config.rank, "model_path": self.model_path}
        session.report_client(training.source, call, **facts)
        return training


@dataclass(frozen=True)
class ModelFromCheckpoint:
    """A model to create with the weights of a checkpoint. The constructor raises ValueError or TypeError.

    Fields that are None are taken from the checkpoint, or chosen by the server.
    """

    path: str
    user_metadata: Optional[Mapping[str, str]]
    with_optimizer: bool
    base_model: Optional[str] = None
    weights_access_token: Optional[str] = field(default=None, repr=False)
    optimizer: Optional[types.OptimizerConfig] = None

    def __post_init__(self) -> None:
        check_model_path(self.path)
        check_labels(self.user_metadata)
        check_optional_text("base_model", self.base_model)
        check_optional_text("weights_access_token", self.weights_access_token, secret=True)
        _check_optimizer_config(self.optimizer)

    def create(self, session: Session, call: CallState, deadline: Optional[float]) -> TrainingClient:
        """Create the model, load its weights and return its client, with one request if the server supports it."""
        number = session.next_number("model_seq_id")
        if session.capabilities.creates_models_by_loading:
            try:
                return self._create_by_loading(session, call, deadline, number)
            except APIStatusError as error:
                # A server without this form misses the model's id in the request. It did not use the number.
                if error.status_code not in (400, 422):
                    raise
        return self._create_then_load(session, call, deadline, number)

    def _create_by_loading(
        self, session: Session, call: CallState, deadline: Optional[float], number: int
    ) -> TrainingClient:
        body = types.CreateModelFromWeightsRequest(
            session.session_id,
            number,
            self.path,
            self.with_optimizer,
            self.base_model,
            dict(self.user_metadata) if self.user_metadata else None,
            self.optimizer,
            self.weights_access_token,
        )
        training = _create("load_weights", body, session, call, deadline)
        session.report_client(training.source, call, base_model=self.base_model, model_path=self.path)
        return training

    def _create_then_load(
        self, session: Session, call: CallState, deadline: Optional[float], number: int
    ) -> TrainingClient:
        request = Request("weights_info", types.WeightsInfoRequest(self.path), call=call, deadline=deadline)
        info = session.call(request)
        if not info.is_lora or info.lora_rank is None:
            raise ValueError(
                f"{self.path} is not a LoRA checkpoint (is_lora {info.is_lora}, lora_rank {info.lora_rank}):"
                " pass the path of a checkpoint that a LoRA training run has saved"
            )
        config = types.LoraConfig(info.lora_rank)
        base_model = self.base_model or info.base_model
        model = NewModel(base_model, config, self.user_metadata, self.optimizer, self.path)
        training = model.create(session, call, deadline, number)
        left = None if deadline is None else max(0.001, deadline - session.clock.time())
        load = training.load_state_with_optimizer if self.with_optimizer else training.load_state
        load(self.path, self.weights_access_token, timeout=left)
        return training


def _create(
    endpoint: str,
    body: Union[types.CreateModelRequest, types.CreateModelFromWeightsRequest],
    session: Session,
    call: CallState,
    deadline: Optional[float],
) -> TrainingClient:
    """Send a request that creates a model, and wait until it is created."""
    started = session.clock.time()
    response = session.call(Request(endpoint, body, call=call, deadline=deadline))
    promise = ServerFuture(response.request_id, endpoint, session.clock.time() - started)
    states = QueueStates(session.observers, session.clock)
    created = poll(session, promise, call, states=states, deadline=deadline)
    # Some servers do not return the id; then it has the usual form.
    return TrainingClient(session, created.model_id or f"{session.session_id}:train:{body.model_seq_id}")


def _check_optimizer_config(optimizer: Any) -> None:
    if optimizer is not None and not isinstance(optimizer, (types.AdamOptimizerConfig, types.DimuonOptimizerConfig)):
        raise TypeError(
            "optimizer must be types.AdamOptimizerConfig() or types.DimuonOptimizerConfig(), not"
            f" {type(optimizer).__name__}"
        )
