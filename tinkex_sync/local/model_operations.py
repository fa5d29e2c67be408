"""Operations of training models: create, train, load weights and unload."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional

from . import protobuf_bodies
from .engine import DEFAULT_MODEL
from .engine.losses import LOSSES
from .idempotency import digest
from .json_bodies import Body, JsonObject
from .models import TrainedModel
from .optional_fields import check_optimizer_type
from .state import Handler, ServerState, accepted

__all__ = ["ModelOperations"]

_ADAM_PARAMS = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm")


class ModelOperations:
    """The handlers of operations of training models. Immutable, so threads may share an instance."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._models = state.models
        self._stats = state.stats
        self._config = state.config

    def handlers(self) -> Dict[str, Handler]:
        """Return the handlers of POST /api/v1/NAME by name."""
        return {
            "create_model": self.create_model,
            "forward": lambda body, data: self.train("forward_input", body, data),
            "forward_backward": lambda body, data: self.train("forward_backward_input", body, data),
            "get_info": self.get_info,
            "load_weights": self.load_weights,
            "optim_step": self.optim_step,
            "unload_model": self.unload_model,
        }

    def create_model(self, body: Body, data: bytes) -> JsonObject:
        """Create a model. POST /api/v1/create_model."""
        session_id = self._state.session_id(body)
        check_optimizer_type(body.optional_inner("optimizer_config"))
        model = self._models.plan(session_id, body)
        number = body.optional_integer("model_seq_id")
        return self._submit_creation(model, number, data, lambda: self._models.create(model))

    def _create_from_checkpoint(self, body: Body, data: bytes) -> JsonObject:
        session_id, number = self._state.session_id(body), body.integer("model_seq_id")
        check_optimizer_type(body.optional_inner("optimizer_config"))
        model = self._models.plan_from_checkpoint(f"{session_id}:train:{number}", session_id, body)
        path, optimizer = body.text("path"), body.flag("optimizer", False)
        return self._submit_creation(model, number, data, lambda: self._models.create(model, path, optimizer))

    def _submit_creation(
        self, model: TrainedModel, number: Optional[int], data: bytes, create: Callable[[], Any]
    ) -> JsonObject:
        key = None if number is None else (f"session {model.record['session_id']} model", number)
        future, is_new = self._state.futures.accept("training", model.record["id"], key, digest(data))
        if is_new:
            self._models.add(model)
            self._state.runner.train(model.queue, future, create)
        return accepted(future)

    def get_info(self, body: Body, _: bytes) -> JsonObject:
        """Return the description of a model. POST /api/v1/get_info."""
        record = self._models.record(body.text("model_id"))
        info = {
            "model_id": record["id"],
            "model_name": record["base_model"],
            "model_data": {
                "arch": "tinkex",
                "model_name": record["base_model"],
                # Models with an extra name use bytes, so the tokenizer of that name would not match.
                "tokenizer_id": self._state.tokenizer_ids.get(record["base_model"], DEFAULT_MODEL),
            },
            "is_lora": True,
            "lora_rank": record["lora_rank"],
            "type": "get_info",
        }
        return {**info, "optimizer_config": {"type": "adamw"}} if self._config.supports_0_38 else info

    def unload_model(self, body: Body, data: bytes) -> JsonObject:
        """Unload a model. POST /api/v1/unload_model."""
        model = self._state.model(body)
        return accepted(self._state.submit_training(model, body, data, lambda: self._models.unload(model))[0])

    def train(self, field: str, body: Body, data: bytes) -> JsonObject:
        """Submit a forward pass, or a forward and backward pass.

        POST /api/v1/forward and /api/v1/forward_backward. Their bodies differ in the name of ``field``.
        """
        model = self._state.model(body)
        fields = body.inner(field)
        datums, loss_fn = fields.non_empty_list("data"), fields.text("loss_fn")
        if loss_fn not in LOSSES:
            raise fields.field_error("loss_fn", f"unknown loss {loss_fn!r}; use one of {', '.join(LOSSES)}")
        strictness = self._state.options.strictness
        strictness.check_loss(fields, loss_fn)
        for index, datum in enumerate(datums):
            inner = Body(datum, f"{field}.data[{index}]")
            inner.inner("loss_fn_inputs")
            inner.inner("model_input").non_empty_list("chunks")
        config = fields.optional_inner("loss_fn_config").raw or None
        backward = field == "forward_backward_input" and not body.flag("forward_only", False)
        future, is_new = self._state.submit_training(
            model,
            body,
            data,
            lambda: strictness.training_result(self._models.train(model, datums, loss_fn, config, backward=backward)),
            protobuf_bodies.encode_training_result if self._config.supports_0_38 else None,
        )
        if is_new:
            self._stats.add("datums_received", len(datums))
            if backward:
                self._stats.count_chunk(model.record["id"], len(datums))
        return accepted(future)

    def optim_step(self, body: Body, data: bytes) -> JsonObject:
        """Submit an optimizer step. POST /api/v1/optim_step."""
        model = self._state.model(body)
        check_optimizer_type(body.optional_inner("optimizer_params"))
        adam = body.optional_inner("adam_params")
        for name in _ADAM_PARAMS:
            value = adam.raw.get(name, 0.0)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise adam.field_error(name, f"must be a number, not {value!r}")

        def step() -> Mapping[str, Any]:
            result = self._models.optim_step(model, adam.raw, corrupt=self._state.gate.corrupts_run())
            return self._state.options.strictness.training_result(result)

        return accepted(self._state.submit_training(model, body, data, step)[0])

    def load_weights(self, body: Body, data: bytes) -> JsonObject:
        """Load a checkpoint into a model. POST /api/v1/load_weights.

        In protocol 0.38.0 a body without ``model_id`` creates a model from the checkpoint.
        """
        if self._config.supports_0_38 and body.optional_text("model_id") is None:
            return self._create_from_checkpoint(body, data)
        model = self._state.model(body)
        path, optimizer = body.text("path"), body.flag("optimizer", False)
        future, _ = self._state.submit_training(
            model, body, data, lambda: self._models.load(model, path, optimizer=optimizer)
        )
        return accepted(future)
