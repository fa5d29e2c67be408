"""Training models and samplers: what the operations of the protocol do to the engine and the store."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .bodies import Body, Refusal
from .engine import BASE_MODELS, DEFAULT_MODEL, EngineError, SamplingModel, TrainingModel
from .operations import Lane
from .stats import Stats
from .store import Record, Store, now, parse_path, tinker_path

__all__ = ["LOSSES", "Models", "TrainedModel"]

LOSSES = ("cross_entropy", "importance_sampling", "ppo", "cispo", "dro")

#: The operation that saves into a folder.
_SAVED_BY = {
    "weights": "save_weights",
    "sampler_weights": "save_weights_for_sampler",
    "external_weights": "save_weights_external",
}
_NOTHING_MORE: Mapping[str, Any] = {}

#: Sampling models kept in memory; further ones are read from disk again when they are used.
KEPT_SAMPLERS = 16


class TrainedModel:
    """A model that is being trained, with the lane that keeps its operations in order.

    Invariant: ``engine`` is touched only by jobs of ``lane``; it is None before the model was made, if that
    failed, and after it was unloaded.
    """

    def __init__(self, record: Record, ordered: bool) -> None:
        self.record = record
        self.lane = Lane(record["id"], ordered=ordered)
        self.engine: Optional[TrainingModel] = None
        #: It can do nothing any more, and the run says so.
        self.corrupted = False


class Models:
    """All live models of the server. The record of a run is in the store once its model was made."""

    def __init__(self, store: Store, stats: Stats, extra_names: Sequence[str], *, ordered: bool) -> None:
        self._store = store
        self._ordered = ordered
        self._stats = stats
        #: Name on the wire to name in the engine; names beyond the engine's own get the smallest model.
        self.names: Dict[str, str] = {
            **{name: name for name in BASE_MODELS},
            **{name: DEFAULT_MODEL for name in extra_names if name not in BASE_MODELS},
        }
        self._lock = threading.Lock()
        self._live: Dict[str, TrainedModel] = {}  # guarded by _lock
        self._samplers: OrderedDict[str, SamplingModel] = OrderedDict()  # guarded by _lock; last used last

    def engine_name(self, body: Body, name: str) -> str:
        """The engine's name of the base model ``name``, which ``body`` has as ``base_model``."""
        if name not in self.names:
            raise Refusal(400, f"base_model: unknown model {name!r}; this server has {', '.join(self.names)}")
        return self.names[name]

    # Training.

    def plan(self, session_id: str, body: Body) -> TrainedModel:
        """A model to be made as a create_model body says; :meth:`make` makes it."""
        lora = body.optional_inner("lora_config")
        base_model = body.text("base_model")
        self.engine_name(body, base_model)
        metadata = body.optional_inner("user_metadata").raw
        rank = lora.optional_integer("rank", 1)
        record: Record = {
            "id": uuid.uuid4().hex,
            "session_id": session_id,
            "base_model": base_model,
            "lora_rank": 32 if rank is None else rank,
            "seed": lora.optional_integer("seed", None),
            "train": {
                f"train_{part}": lora.flag(f"train_{part}", True) for part in ("attn", "mlp", "unembed")
            },
            "user_metadata": {str(key): str(value) for key, value in metadata.items()} or None,
            "time": now(),
            "last_request_time": now(),
        }
        return TrainedModel(record, self._ordered)

    def plan_from(self, id: str, session_id: str, body: Body) -> TrainedModel:
        """A model to be made of the training checkpoint ``path`` of ``body``; :meth:`make` makes it.

        Raises:
            Refusal: there is no such checkpoint, or it is of another base model than ``body`` has.
        """
        checkpoint = self.checkpoint(body.text("path"))
        base_model = body.optional_text("base_model")
        if base_model not in (None, checkpoint["base_model"]):
            raise Refusal(
                400, f"base_model: the checkpoint is of {checkpoint['base_model']}, not {base_model}"
            )
        metadata, meta = body.optional_inner("user_metadata").raw, checkpoint["meta"]
        record: Record = {
            "id": id,
            "session_id": session_id,
            "base_model": checkpoint["base_model"],
            "lora_rank": checkpoint["lora_rank"],
            "seed": meta["seed"],
            "train": {part: meta[part] for part in ("train_attn", "train_mlp", "train_unembed")},
            "user_metadata": {str(key): str(value) for key, value in metadata.items()} or None,
            "time": now(),
            "last_request_time": now(),
        }
        return TrainedModel(record, self._ordered)

    def add(self, model: TrainedModel) -> None:
        """From now on there is such a model."""
        with self._lock:
            self._live[model.record["id"]] = model

    def make(
        self, model: TrainedModel, path: Optional[str] = None, optimizer: bool = False
    ) -> Dict[str, Any]:
        """Make a planned model, with the weights of a training checkpoint if ``path`` names one."""
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

    def live(self, model_id: str) -> TrainedModel:
        """Raises: Refusal: 404, there is no such model, or not any more."""
        with self._lock:
            model = self._live.get(model_id)
        if model is not None:
            model.record = {**model.record, "last_request_time": now()}
            return model
        self._store.get("runs", model_id)
        raise Refusal(
            404,
            f"model {model_id!r} is not loaded any more (it was unloaded, or the server was restarted); "
            "start a new one from one of its checkpoints",
        )

    def record(self, model_id: str) -> Record:
        """What is known of a training run, live or not."""
        with self._lock:
            model = self._live.get(model_id)
        return self._store.get("runs", model_id) if model is None or model.engine is None else model.record

    def corrupted(self, model_id: str) -> bool:
        """Whether a run can only be gone on with from a checkpoint."""
        with self._lock:
            model = self._live.get(model_id)
        return model is not None and model.corrupted

    def keep(self) -> None:
        """Write down what changed in the records of the live models since they were made."""
        with self._lock:
            live = list(self._live.values())
        for model in live:
            if model.engine is not None:
                self._store.put("runs", model.record)

    def unload(self, model: TrainedModel) -> Dict[str, Any]:
        model.engine = None
        with self._lock:
            self._live.pop(model.record["id"], None)
        return {"model_id": model.record["id"], "type": "unload_model"}

    @staticmethod
    def _engine(model: TrainedModel) -> TrainingModel:
        if model.corrupted:
            raise RuntimeError(f"run {model.record['id']} is corrupted: go on from its last checkpoint")
        if model.engine is None:
            raise EngineError(
                f"model {model.record['id']} is not loaded: making it failed, or it was unloaded"
            )
        return model.engine

    def train(
        self,
        model: TrainedModel,
        backward: bool,
        data: List[Any],
        loss_fn: str,
        config: Optional[Dict[str, Any]],
    ) -> Mapping[str, Any]:
        """forward or forward_backward."""
        engine = self._engine(model)
        output: Mapping[str, Any] = (engine.forward_backward if backward else engine.forward)(
            data, loss_fn, config
        )
        self._stats.add("datums_done", len(data))
        return output

    def step(self, model: TrainedModel, adam: Dict[str, Any], *, corrupt: bool = False) -> Dict[str, Any]:
        if corrupt:
            model.corrupted = True
        metrics = self._engine(model).optim_step(adam)
        self._stats.add("optim_steps")
        return {"metrics": metrics}

    def save(
        self,
        model: TrainedModel,
        folder: str,
        name: str,
        about: Mapping[str, Any] = _NOTHING_MORE,
        overwrite: bool = True,
    ) -> Dict[str, Any]:
        """A checkpoint under a name: "weights" with optimizer state, or one of the other folders without.

        Args:
            about: What else its record is to have.
            overwrite: Whether it may take the place of another.
        """
        engine = self._engine(model)
        if not overwrite and self._store.has(model.record["id"], folder, name):
            raise EngineError(
                f"there is a checkpoint {folder}/{name} of this model already: choose another name, or overwrite it"
            )
        record = self._store.save(
            {
                **about,
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
        answer = {"path": tinker_path(record), "type": _SAVED_BY[folder]}
        return {**answer, "size_bytes": record["size_bytes"]} if folder == "external_weights" else answer

    def save_sampler(self, model: TrainedModel, sampler: Record) -> Dict[str, Any]:
        """The weights as they are now, behind a sampling session and nothing else."""
        engine = self._engine(model)
        if any(known["id"] == sampler["id"] for known in self._store.all("samplers")):
            raise EngineError(
                f"sampling session {sampler['id']} already exists; use another sampling_session_seq_id"
            )
        record = {**sampler, "base_model": model.record["base_model"], "meta": engine.meta()}
        self._store.put("samplers", record, engine.arrays(optimizer=False))
        self._remember(record["id"], engine.snapshot())
        return {"path": None, "sampling_session_id": record["id"], "type": "save_weights_for_sampler"}

    def load(self, model: TrainedModel, path: str, optimizer: bool) -> Dict[str, Any]:
        """Weights, and with ``optimizer`` its state too, from a training checkpoint."""
        self._load(self._engine(model), path, optimizer)
        return {"path": path, "type": "load_weights"}

    def _load(self, engine: TrainingModel, path: str, optimizer: bool) -> None:
        try:
            record = self.checkpoint(path)
        except Refusal as refusal:
            # The path may be that of a save still in the queue, so it can be looked up only now.
            raise EngineError(refusal.detail) from None
        if record["folder"] != "weights":
            raise EngineError(
                f"{path} holds weights for sampling only; load a path of save_state, like tinker://RUN/weights/NAME"
            )
        engine.load(record["meta"], self._store.arrays(record), optimizer)

    # Checkpoints and samplers.

    def checkpoint(self, path: str) -> Record:
        """Raises: Refusal: 422, not a path, or 404, nothing there."""
        return self._store.checkpoint(*parse_path(path))

    def sampler(self, id: str, session_id: Optional[str], body: Body) -> Record:
        """The record of a sampling session on the ``model_path`` or ``base_model`` of ``body``."""
        path, base_model = body.optional_text("model_path"), body.optional_text("base_model")
        if path is not None:
            base_model = self.checkpoint(path)["base_model"]
        elif base_model is not None:
            self.engine_name(body, base_model)
        else:
            raise body.bad("base_model", "is missing; give it or model_path")
        return {
            "id": id,
            "session_id": session_id,
            "base_model": base_model,
            "model_path": path,
            "run_id": None,
            "time": now(),
        }

    def sample(
        self,
        sampler: Record,
        prompt: List[Any],
        num_samples: int,
        params: Dict[str, Any],
        asked: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """num_samples completions, with what was ``asked`` for beside; the answer of asample."""
        output: Mapping[str, Any] = self._sampling_model(sampler).sample(prompt, num_samples, params, **asked)
        self._stats.add("samples_done")
        return output

    def _sampling_model(self, sampler: Record) -> SamplingModel:
        checkpoint: Optional[Record] = None
        if sampler["model_path"] is not None:
            try:
                checkpoint = self.checkpoint(sampler["model_path"])
            except Refusal as refusal:
                raise EngineError(refusal.detail) from None
        base_model: str = sampler["base_model"]
        key = checkpoint["id"] if checkpoint else sampler["id"] if "meta" in sampler else base_model
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
        return self._remember(key, model)

    def _remember(self, key: str, model: SamplingModel) -> SamplingModel:
        with self._lock:
            self._samplers[key] = model
            self._samplers.move_to_end(key)
            while len(self._samplers) > KEPT_SAMPLERS:
                self._samplers.popitem(last=False)
        return model
