"""Making the model of a training client: a new adapter, or one with the weights of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional

from .. import types
from ..errors import APIStatusError
from ..http.call_state import CallState
from ..http.request import Request
from ..polling.poller import Promise, poll
from ..polling.queue_states import QueueStates
from ..session import Session
from .arguments import asked, model_body, optimizer_config
from .sampling_sessions import check_model_path
from .training import TrainingClient

__all__ = ["Checkpointed", "create_model"]


def create_model(
    session: Session,
    body: Dict[str, Any],
    call: CallState,
    deadline: Optional[float],
    *,
    endpoint: str = "create_model",
    number: Optional[int] = None,
) -> TrainingClient:
    """``POST /api/v1/create_model``, or a ``load_weights`` that makes its model, and the wait for it."""
    began = session.clock.time()
    if number is None:
        number = session.next_number("model_seq_id")
    content = {"session_id": session.session_id, "model_seq_id": number, **body}
    answer = session.call(Request(endpoint, content, call=call, deadline=deadline))
    promise = Promise(answer.request_id, endpoint, session.clock.time() - began)
    states = QueueStates(session.observers, session.clock)
    made = poll(session, promise, call, states=states, deadline=deadline)
    return TrainingClient(session, made.model_id or f"{session.session_id}:train:{number}")


@dataclass(frozen=True)
class Checkpointed:
    """A model to be made from a checkpoint; what is None is left to the checkpoint, or to the server."""

    path: str
    user_metadata: Optional[Mapping[str, str]]
    with_optimizer: bool
    base_model: Optional[str] = None
    weights_access_token: Optional[str] = field(default=None, repr=False)
    optimizer: Optional[types.OptimizerConfig] = None

    def checked(self) -> Checkpointed:
        """Raises ValueError or TypeError where an argument is wrong."""
        check_model_path(self.path)
        optimizer_config(self.optimizer)
        for name in ("base_model", "weights_access_token"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name} must be a text that is not empty, or None")
        return self

    def make(self, session: Session, call: CallState, deadline: Optional[float]) -> TrainingClient:
        """The model with its weights, in one request where the server takes that."""
        number = session.next_number("model_seq_id")
        if session.protocol.creates_by_loading:
            try:
                return self._by_loading(session, call, deadline, number)
            except APIStatusError as error:
                # One that does not know this form misses the model's id; the number is not used up.
                if error.status_code not in (400, 422):
                    raise
        return self._step_by_step(session, call, deadline, number)

    def _by_loading(
        self, session: Session, call: CallState, deadline: Optional[float], number: int
    ) -> TrainingClient:
        body = {
            "path": self.path,
            "optimizer": self.with_optimizer,
            **asked(
                base_model=self.base_model,
                user_metadata=self.user_metadata or None,
                optimizer_config=optimizer_config(self.optimizer),
                weights_access_token=self.weights_access_token,
            ),
        }
        return create_model(session, body, call, deadline, endpoint="load_weights", number=number)

    def _step_by_step(
        self, session: Session, call: CallState, deadline: Optional[float], number: int
    ) -> TrainingClient:
        info = session.call(Request("weights_info", {"tinker_path": self.path}, call=call, deadline=deadline))
        if not info.is_lora or info.lora_rank is None:
            raise ValueError(
                f"{self.path} is not a LoRA checkpoint (is_lora {info.is_lora}, lora_rank {info.lora_rank}),"
                " and only those can be trained on"
            )
        base = self.base_model or info.base_model
        body = model_body(base, info.lora_rank, None, True, True, True, self.user_metadata, self.optimizer)
        training = create_model(session, body, call, deadline, number=number)
        left = None if deadline is None else max(0.001, deadline - session.clock.time())
        load = training.load_state_with_optimizer if self.with_optimizer else training.load_state
        load(self.path, self.weights_access_token, timeout=left)
        return training
