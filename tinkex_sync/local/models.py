"""Training models and samplers: the effects of operations on the engine and on the store."""

from __future__ import annotations

import threading
import uuid
from collections import Counter, OrderedDict
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from .engine import BASE_MODELS, DEFAULT_MODEL, EngineError, SamplingModel, TrainingModel
from .json_bodies import Body, JsonObject, RejectedRequest
from .runner import ModelQueue
from .stats import Stats
from .store import Record, Store, parse_path, timestamp, tinker_path

__all__ = ["Models", "TrainedModel"]

#: The operation that saves into a folder.
_SAVED_BY = {
    "weights": "save_weights",
    "sampler_weights": "save_weights_for_sampler",
    "external_weights": "save_weights_external",
}
_NO_FIELDS: Mapping[str, Any] = {}

#: The number of sampling models in memory. Others are read from disk when they are used.
MAX_CACHED_SAMPLERS = 16


class TrainedModel:
    """A training model with the queue that keeps its operations in order.

    Invariant: only jobs of ``queue`` use ``engine``. It is None until the model is created, if the creation failed, and
    after the model was unloaded. ``saving`` contains the folder and name of each accepted save that has not ended.
    """

    def __init__(self, record: Record, *, ordered: bool) -> None:
        self.record = record
        self.queue = ModelQueue(record["id"], ordered=ordered)
        self.engine: Optional[TrainingModel] = None
        #: All operations of the run fail from now on.
        self.corrupted = False
        #: Held while an operation is numbered and accepted, if numbers must be consecutive.
        self.numbering = threading.Lock()
        self.next_number = 1  # guarded by numbering
        self.saving: Counter[Tuple[str, str]] = Counter()  # guarded by the lock of Models


class Models:
    """The loaded models of the server. Thread-safe, except that the jobs of one model must run one at a time.

    Invariant: the record of a run is in the store if its model has been created.

    Args:
        store: Persists runs, checkpoints and samplers.
        stats: Counts computed datums, optimizer steps and samples.
        extra_names: Further names of base models. The smallest model replaces each of them.
        ordered: Run the operations of a model in the order of their numbers.
    """

    def __init__(self, store: Store, stats: Stats, extra_names: Sequence[str], *, ordered: bool) -> None:
        self._store = store
        self._ordered = ordered
        self._stats = stats
        #: The name in requests, and the name of the base model in the engine.
        self.names: Dict[str, str] = {
            **{name: name for name in BASE_MODELS},
            **{name: DEFAULT_MODEL for name in extra_names if name not in BASE_MODELS},
        }
        self._lock = threading.Lock()
        self._loaded: Dict[str, TrainedModel] = {}  # guarded by _lock
        #: The sampling models in memory. The last one was used last.
        self._samplers: OrderedDict[str, SamplingModel] = OrderedDict()  # guarded by _lock

    def _check_base_model(self, name: str) -> None:
        if name not in self.names:
            known = ", ".join(self.names)
            raise RejectedRequest(400, f"base_model: unknown model {name!r}; this server has {known}")

    # Creation of training models.

    def plan(self, session_id: str, body: Body) -> TrainedModel:
        """Make the record of a model from the body of a create_model. :meth:`create` creates the model."""
        lora = body.optional_inner("lora_config")
        base_model = body.text("base_model")
        self._check_base_model(base_model)
        rank = lora.optional_integer("rank", 1)
        fields = {
            "base_model": base_model,
            "lora_rank": 32 if rank is None else rank,
            "seed": lora.optional_integer("seed", None),
            "train": {f"train_{part}": lora.flag(f"train_{part}", True) for part in ("attn", "mlp", "unembed")},
        }
        return self._planned(uuid.uuid4().hex, session_id, body, fields)

    def plan_from_checkpoint(self, id: str, session_id: str, body: Body) -> TrainedModel:
        """Make the record of a model from the training checkpoint ``path`` of ``body``.

        Raises:
            RejectedRequest: There is no such checkpoint, or its base model is not the one in ``body``.
        """
        checkpoint = self.checkpoint(body.text("path"))
        base_model = body.optional_text("base_model")
        if base_model not in (None, checkpoint["base_model"]):
            raise RejectedRequest(
                400, f"base_model: the checkpoint has base model {checkpoint['base_model']}, not {base_model}"
            )
        meta = checkpoint["meta"]
        fields = {
            "base_model": checkpoint["base_model"],
            "lora_rank": checkpoint["lora_rank"],
            "seed": meta["seed"],
            "train": {part: meta[part] for part in ("train_attn", "train_mlp", "train_unembed")},
        }
        return self._planned(id, session_id, body, fields)

    def _planned(self, id: str, session_id: str, body: Body, fields: JsonObject) -> TrainedModel:
        metadata = body.optional_inner("user_metadata").raw
        record: Record = {
            "id": id,
            "session_id": session_id,
            **fields,
            "user_metadata": {str(key): str(value) for key, value in metadata.items()} or None,
            "time": timestamp(),
            "last_request_time": timestamp(),
        }
        return TrainedModel(record, ordered=self._ordered)

    def add(self, model: TrainedModel) -> None:
        """Make a planned model known, so that requests can name it."""
        with self._lock:
            self._loaded[model.record["id"]] = model

    def create(self, model: TrainedModel, path: Optional[str] = None, optimizer: bool = False) -> JsonObject:
        """Create a planned model.

        Args:
            model: The planned model.
            path: A training checkpoint whose weights are loaded. None: fresh weights.
            optimizer: Load the optimizer state of the checkpoint too.

        Returns:
            The result of create_model or load_weights.
        """
        record = model.record
        engine = TrainingModel(
            self.names[record["base_model"]], rank=record["lora_rank"], seed=record["seed"], **record["train"]
        )
        if path is not None:
            self._load(engine, path, optimizer)
        model.engine = engine
        self._store.put("runs", record)
        if path is None:
            return {"model_id": record["id"], "type": "create_model"}
        return {"path": path, "model_id": record["id"], "type": "load_weights"}

    # Access to training models.

    def loaded(self, model_id: str) -> TrainedModel:
        """Return a loaded model, and record the time of the request.

        Raises:
            RejectedRequest: 404, the model does not exist or is not loaded.
        """
        with self._lock:
            model = self._loaded.get(model_id)
        if model is not None:
            model.record = {**model.record, "last_request_time": timestamp()}
            return model
        self._store.get("runs", model_id)
        raise RejectedRequest(
            404,
            f"model {model_id!r} is not loaded (it was unloaded, or the server was restarted); "
            "create a new one from one of its checkpoints",
        )

    def record(self, model_id: str) -> Record:
        """Return the record of a training run, whether its model is loaded or not."""
        with self._lock:
            model = self._loaded.get(model_id)
        return self._store.get("runs", model_id) if model is None or model.engine is None else model.record

    def is_corrupted(self, model_id: str) -> bool:
        """Return whether a run can be continued only from a checkpoint."""
        with self._lock:
            model = self._loaded.get(model_id)
        return model is not None and model.corrupted

    def save_records(self) -> None:
        """Save the records of the loaded models, whose request times changed since they were created."""
        for model in self.all_loaded():
            if model.engine is not None:
                self._store.put("runs", model.record)

    def all_loaded(self) -> List[TrainedModel]:
        """Return the loaded models."""
        with self._lock:
            return list(self._loaded.values())

    def submit_unload(self, model: TrainedModel) -> None:
        """Unload a model after its accepted operations."""
        model.queue.submit(lambda: self._unload_and_record(model))

    def _unload_and_record(self, model: TrainedModel) -> None:
        if model.engine is not None:
            self._store.put("runs", model.record)
        self.unload(model)

    def unload(self, model: TrainedModel) -> JsonObject:
        """Unload a model. Return the result of unload_model."""
        model.engine = None
        with self._lock:
            self._loaded.pop(model.record["id"], None)
        return {"model_id": model.record["id"], "type": "unload_model"}

    @staticmethod
    def _engine(model: TrainedModel) -> TrainingModel:
        if model.corrupted:
            raise RuntimeError(f"run {model.record['id']} is corrupted: continue from its last checkpoint")
        if model.engine is None:
            raise EngineError(f"model {model.record['id']} is not loaded: its creation failed, or it was unloaded")
        return model.engine

    # Training.

    def train(
        self, model: TrainedModel, data: List[Any], loss_fn: str, config: Optional[JsonObject], *, backward: bool
    ) -> Mapping[str, Any]:
        """Run a forward pass, or with ``backward`` a forward and backward pass. Return its result."""
        engine = self._engine(model)
        run = engine.forward_backward if backward else engine.forward
        output: Mapping[str, Any] = run(data, loss_fn, config)
        self._stats.add("datums_done", len(data))
        return output

    def optim_step(self, model: TrainedModel, adam: JsonObject, *, corrupt: bool = False) -> JsonObject:
        """Make an optimizer step. Return the result of optim_step. With ``corrupt``, corrupt the run instead."""
        if corrupt:
            model.corrupted = True
        metrics = self._engine(model).optim_step(adam)
        self._stats.add("optim_steps")
        return {"metrics": metrics}

    # Checkpoints.

    def reserve_name(self, model: TrainedModel, folder: str, name: str, *, overwrite: bool) -> None:
        """Record an accepted save. :meth:`save` must follow, and ends the reservation.

        Raises:
            RejectedRequest: 409, the name is used by a checkpoint or by an accepted save, and ``overwrite`` is false.
        """
        exists = self._store.has(model.record["id"], folder, name)
        with self._lock:
            if not overwrite and (exists or model.saving[folder, name]):
                path = tinker_path({"run_id": model.record["id"], "folder": folder, "name": name})
                raise RejectedRequest(409, f"checkpoint {path} already exists: choose another name, or send overwrite")
            model.saving[folder, name] += 1

    def save(self, model: TrainedModel, folder: str, name: str, fields: Mapping[str, Any] = _NO_FIELDS) -> JsonObject:
        """Save a checkpoint under a reserved name. It replaces one of this name.

        Checkpoints in the folder "weights" contain the optimizer state.

        Args:
            model: The model.
            folder: "weights", "sampler_weights" or "external_weights".
            name: The name of the checkpoint.
            fields: Further fields of its record.

        Returns:
            The result of the operation that saves into the folder.

        Raises:
            EngineError: The model is not loaded.
        """
        try:
            return self._save(model, folder, name, fields)
        finally:
            with self._lock:
                model.saving -= Counter([(folder, name)])

    def _save(self, model: TrainedModel, folder: str, name: str, fields: Mapping[str, Any]) -> JsonObject:
        engine = self._engine(model)
        record = self._store.save(
            {
                **fields,
                "run_id": model.record["id"],
                "folder": folder,
                "name": name,
                "base_model": model.record["base_model"],
                "lora_rank": model.record["lora_rank"],
                "meta": engine.meta(),
            },
            engine.arrays(optimizer=folder == "weights"),
        )
        self._store.put("runs", model.record)
        result = {"path": tinker_path(record), "type": _SAVED_BY[folder]}
        return {**result, "size_bytes": record["size_bytes"]} if folder == "external_weights" else result

    def save_sampler(self, model: TrainedModel, sampler: Record) -> JsonObject:
        """Save the current weights for one sampling session. Return the result of save_weights_for_sampler."""
        engine = self._engine(model)
        if any(known["id"] == sampler["id"] for known in self._store.all("samplers")):
            raise EngineError(f"sampling session {sampler['id']} already exists; use another sampling_session_seq_id")
        record = {**sampler, "base_model": model.record["base_model"], "meta": engine.meta()}
        self._store.put("samplers", record, engine.arrays(optimizer=False))
        self._cache_sampler(record["id"], engine.snapshot())
        return {"path": None, "sampling_session_id": record["id"], "type": "save_weights_for_sampler"}

    def load(self, model: TrainedModel, path: str, *, optimizer: bool) -> JsonObject:
        """Load the weights of a training checkpoint, and with ``optimizer`` its optimizer state.

        Returns:
            The result of load_weights.
        """
        self._load(self._engine(model), path, optimizer)
        return {"path": path, "type": "load_weights"}

    def _load(self, engine: TrainingModel, path: str, optimizer: bool) -> None:
        record = self._checkpoint_when_run(path)
        if record["folder"] != "weights":
            raise EngineError(
                f"{path} contains weights for sampling only; use a path of save_state, like tinker://RUN/weights/NAME"
            )
        engine.load(record["meta"], self._store.arrays(record), optimizer)

    def _checkpoint_when_run(self, path: str) -> Record:
        """Return the record of a checkpoint, when the operation runs.

        The path may name a checkpoint whose save was still in the queue when the request arrived, so the error is
        that of an operation.
        """
        try:
            return self.checkpoint(path)
        except RejectedRequest as error:
            raise EngineError(error.detail) from None

    def checkpoint(self, path: str) -> Record:
        """Return the record of a checkpoint.

        Raises:
            RejectedRequest: 422 if ``path`` is not a checkpoint path, 404 if there is no checkpoint.
        """
        return self._store.checkpoint(*parse_path(path))

    # Sampling.

    def sampler(self, id: str, session_id: Optional[str], body: Body) -> Record:
        """Make the record of a sampling session from the ``model_path`` or ``base_model`` of ``body``."""
        path, base_model = body.optional_text("model_path"), body.optional_text("base_model")
        if path is not None:
            base_model = self.checkpoint(path)["base_model"]
        elif base_model is not None:
            self._check_base_model(base_model)
        else:
            raise body.field_error("base_model", "is missing; pass base_model or model_path")
        return {
            "id": id,
            "session_id": session_id,
            "base_model": base_model,
            "model_path": path,
            "run_id": None,
            "time": timestamp(),
        }

    def sample(
        self, sampler: Record, prompt: List[Any], num_samples: int, params: JsonObject, score_options: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Sample completions. Return the result of asample.

        Args:
            sampler: The record of the sampling session.
            prompt: The chunks of the prompt.
            num_samples: The number of completions.
            params: The ``sampling_params`` of the request.
            score_options: The fields of the request that request scores.
        """
        model = self._sampling_model(sampler)
        output: Mapping[str, Any] = model.sample(prompt, num_samples, params, **score_options)
        self._stats.add("samples_done")
        return output

    def _sampling_model(self, sampler: Record) -> SamplingModel:
        path: Optional[str] = sampler["model_path"]
        base_model: str = sampler["base_model"]
        checkpoint = None if path is None else self._checkpoint_when_run(path)
        key: str = checkpoint["id"] if checkpoint else sampler["id"] if "meta" in sampler else base_model
        with self._lock:
            if key in self._samplers:
                self._samplers.move_to_end(key)
                return self._samplers[key]
        if checkpoint is not None:
            model = SamplingModel.from_checkpoint(checkpoint["meta"], self._store.arrays(checkpoint))
        elif "meta" in sampler:
            model = SamplingModel.from_checkpoint(sampler["meta"], self._store.sampler_arrays(sampler["id"]))
        else:
            model = SamplingModel.base(self.names.get(base_model, base_model))
        self._cache_sampler(key, model)
        return model

    def _cache_sampler(self, key: str, model: SamplingModel) -> None:
        with self._lock:
            self._samplers[key] = model
            self._samplers.move_to_end(key)
            while len(self._samplers) > MAX_CACHED_SAMPLERS:
                self._samplers.popitem(last=False)
