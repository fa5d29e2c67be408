"""Operations that save, describe and copy checkpoints."""

from __future__ import annotations

import uuid
from typing import Dict

from .json_bodies import Body, JsonObject
from .models import TrainedModel
from .optional_fields import parse_expiry, parse_labels
from .sampling_operations import sampler_id
from .state import Handler, ServerState, accepted
from .store import check_name, timestamp, tinker_path

__all__ = ["CheckpointOperations"]


class CheckpointOperations:
    """The handlers of checkpoint operations. Immutable, so threads may share an instance."""

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._models = state.models
        self._store = state.store
        self._config = state.config

    def handlers(self) -> Dict[str, Handler]:
        """Return the handlers of POST /api/v1/NAME by name."""
        handlers: Dict[str, Handler] = {
            "save_weights": self.save_weights,
            "save_weights_for_sampler": self.save_weights_for_sampler,
            "weights_info": self.weights_info,
        }
        if self._config.supports_0_38:
            handlers.update(copy_weights=self.copy_weights, save_weights_external=self.save_weights_external)
        return handlers

    def save_weights(self, body: Body, data: bytes) -> JsonObject:
        """Save a training checkpoint. POST /api/v1/save_weights.

        Raises:
            RejectedRequest: 409, there is a checkpoint of this name, and the request does not contain ``overwrite``.
        """
        model = self._state.model(body)
        name = uuid.uuid4().hex if body.optional_text("path") is None else check_name(body.text("path"))
        return self._save(model, "weights", name, self._optional_fields(body), body, data)

    def _optional_fields(self, body: Body) -> JsonObject:
        if not self._config.supports_0_38:
            return {}
        return {"expires_at": parse_expiry(body), **parse_labels(body)}

    def save_weights_for_sampler(self, body: Body, data: bytes) -> JsonObject:
        """Save weights for sampling, with a name or for one sampling session. POST /api/v1/save_weights_for_sampler."""
        model = self._state.model(body)
        if body.optional_text("path") is not None:
            name, fields = check_name(body.text("path")), self._optional_fields(body)
            return self._save(model, "sampler_weights", name, fields, body, data)
        session_id = model.record["session_id"]
        sampler = {
            "id": sampler_id(session_id, body.integer("sampling_session_seq_id")),
            "session_id": session_id,
            "model_path": None,
            "run_id": model.record["id"],
            "time": timestamp(),
        }
        future, _ = self._state.submit_training(model, body, data, lambda: self._models.save_sampler(model, sampler))
        return accepted(future)

    def save_weights_external(self, body: Body, data: bytes) -> JsonObject:
        """Save weights for download. POST /api/v1/save_weights_external."""
        if body.raw.get("age_encryption_recipients"):
            raise body.field_error("age_encryption_recipients", "this server cannot encrypt; omit the field")
        model = self._state.model(body)
        name, fields = check_name(body.text("path")), {"expires_at": parse_expiry(body)}
        return self._save(model, "external_weights", name, fields, body, data)

    def _save(
        self, model: TrainedModel, folder: str, name: str, fields: JsonObject, body: Body, data: bytes
    ) -> JsonObject:
        overwrite = body.flag("overwrite", False) and not self._state.options.strictness.ignores_overwrite
        future, _ = self._state.submit_training(
            model,
            body,
            data,
            lambda: self._models.save(model, folder, name, fields),
            admit=lambda: self._models.reserve_name(model, folder, name, overwrite=overwrite),
        )
        return accepted(future)

    def weights_info(self, body: Body, _: bytes) -> JsonObject:
        """Return the description of a checkpoint. POST /api/v1/weights_info."""
        record = self._models.checkpoint(body.text("tinker_path"))
        info = {"base_model": record["base_model"], "is_lora": True, "lora_rank": record["lora_rank"]}
        if not self._config.supports_0_38:
            return info
        parts = ("train_unembed", "train_mlp", "train_attn")
        return {**info, "optimizer_config": {"type": "adamw"}, **{part: record["meta"][part] for part in parts}}

    def copy_weights(self, body: Body, _: bytes) -> JsonObject:
        """Copy a checkpoint into a new run of a project or of a session. POST /api/v1/copy_weights."""
        source = self._models.checkpoint(body.text("source_path"))
        project, number = body.optional_text("destination_project_id"), body.optional_integer("model_seq_id")
        if (project is None) == (number is None):
            raise body.field_error("destination_project_id", "pass either this, or session_id and model_seq_id")
        run: JsonObject = {**self._store.get("runs", source["run_id"]), "user_metadata": None}
        if project is None:
            session_id = self._state.session_id(body)
            run.update(id=f"{session_id}:train:{number}", session_id=session_id)
        else:
            run.update(id=uuid.uuid4().hex, project_id=project)
        self._store.put("runs", {**run, "time": timestamp(), "last_request_time": timestamp()})
        copy = {**source, "run_id": run["id"], "expires_at": parse_expiry(body), **parse_labels(body)}
        return {"tinker_path": tinker_path(self._store.save(copy, self._store.arrays(source)))}
