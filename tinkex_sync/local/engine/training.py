"""A model that is being trained: a base model, its adapters, their gradients and their optimizer."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np
from autograd import make_vjp

from . import adapters as lora
from .architecture import BaseModel, ModelConfig
from .errors import EngineError
from .inputs import Datum, datum
from .losses import evaluate, settings
from .network import target_logprobs
from .optimizer import AdamSettings, AdamW
from .sampling import SamplingModel, adapters_from

#: A batch computed at once holds at most so many positions, and so many attention weights.
_BATCH_POSITIONS = 4096
_BATCH_WEIGHTS = 8 * 1024 * 1024

Model = TypeVar("Model", bound="TrainingModel")


class TrainingModel:
    """LoRA adapters on a base model, trained by ``forward_backward`` and ``optim_step``.

    The same calls in the same order give the same bits, as long as BLAS runs on one thread: set
    OMP_NUM_THREADS, OPENBLAS_NUM_THREADS and MKL_NUM_THREADS to 1 before numpy is first imported.

    Threads: one operation at a time on one model; different models may run in different threads.

    ``rank`` is that of every adapter, 1 to 256. ``seed`` fixes how they start; None is seed 0. A call that
    raises EngineError has changed nothing.
    """

    def __init__(
        self,
        base_model: str,
        *,
        rank: int,
        seed: Optional[int],
        train_attn: bool = True,
        train_mlp: bool = True,
        train_unembed: bool = True,
    ) -> None:
        self.base = BaseModel.named(base_model)
        self.rank = rank
        self.seed = seed
        self._trained = {"train_attn": train_attn, "train_mlp": train_mlp, "train_unembed": train_unembed}
        self._names = lora.targets(self.base.config, **self._trained)
        self.adapters = lora.initial(self.base.config, self._names, rank, 0 if seed is None else seed)
        self.optimizer = AdamW(self.adapters)
        #: The sum of the gradients since the last optimizer step, by adapter; None before the first.
        self.gradients: Optional[Dict[str, Any]] = None

    def forward(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: Optional[Mapping[str, Any]] = None
    ) -> Dict[str, Any]:
        """Evaluate the loss, without gradients.

        ``data`` are datums as decoded from the wire. The result has, per datum, ``logprobs`` of the target
        tokens (natural logs) and ``elementwise_loss``, float32 of the input's length; ``loss:sum`` is the sum
        over all tokens of all datums.

        Raises:
            EngineError: the data does not fit the loss or the model.
        """
        return self._run(data, loss_fn, loss_fn_config, backward=False)

    def forward_backward(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: Optional[Mapping[str, Any]] = None
    ) -> Dict[str, Any]:
        """``forward``, and the gradient of ``loss:sum`` is added to what the next optimizer step will use."""
        return self._run(data, loss_fn, loss_fn_config, backward=True)

    def optim_step(self, adam: Mapping[str, Any]) -> Dict[str, float]:
        """One AdamW step on the accumulated gradient, which is zero again afterwards.

        With nothing accumulated the gradient is zero: weight decay and momentum still act. Returns metrics;
        ``grad_norm:mean`` is the global norm before clipping.

        Raises:
            EngineError: ``adam`` holds an unknown key or a value out of range.
        """
        checked = AdamSettings.checked(adam)
        gradients = self.gradients or {name: np.zeros_like(array) for name, array in self.adapters.items()}
        norm = self.optimizer.step(self.adapters, gradients, checked)
        self.gradients = None
        return {
            "grad_norm:mean": norm,
            "learning_rate:mean": checked.learning_rate,
            "step:max": float(self.optimizer.steps),
        }

    def meta(self) -> Dict[str, Any]:
        """What a checkpoint must say about its arrays, ready for JSON. ``step`` counts optimizer steps."""
        return {
            "base_model": self.base.name,
            "rank": self.rank,
            "seed": self.seed,
            **self._trained,
            "step": self.optimizer.steps,
        }

    def arrays(self, optimizer: bool) -> Dict[str, Any]:
        """Copies of the adapters, and of the optimizer's moments if asked; pending gradients are not."""
        groups = {"lora": self.adapters}
        if optimizer:
            groups.update(first=self.optimizer.first, second=self.optimizer.second)
        return {
            f"{group}.{name}": array.copy() for group, part in groups.items() for name, array in part.items()
        }

    @classmethod
    def from_checkpoint(cls: Type[Model], meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Model:
        """The model a checkpoint was made of, with its optimizer if the checkpoint has it.

        Raises:
            EngineError: ``meta`` and ``arrays`` do not belong together.
        """
        try:
            trained = {key: meta[key] for key in ("train_attn", "train_mlp", "train_unembed")}
            model = cls(meta["base_model"], rank=meta["rank"], seed=meta["seed"], **trained)
        except KeyError as error:
            raise EngineError(
                f"the checkpoint's description lacks {error}: it is damaged, save it again"
            ) from None
        model.load(meta, arrays, any(name.startswith("first.") for name in arrays))
        return model

    def load(self, meta: Mapping[str, Any], arrays: Mapping[str, Any], optimizer: bool) -> None:
        """Take a checkpoint's adapters, and its optimizer state or a fresh one. Pending gradients are
        dropped.

        Raises:
            EngineError: it is of another base model, rank or set of trained parts, or has no optimizer state.
        """
        mine = self.meta()
        for key in ("base_model", "rank", "train_attn", "train_mlp", "train_unembed"):
            if meta.get(key) != mine[key]:
                raise EngineError(
                    f"the checkpoint has {key} {meta.get(key)!r}, this model {mine[key]!r}: create a model"
                    " like the checkpoint's"
                )
        loaded = adapters_from(arrays, "lora", self.adapters)
        fresh = AdamW(loaded)
        if optimizer:
            fresh.first = adapters_from(arrays, "first", self.adapters)
            fresh.second = adapters_from(arrays, "second", self.adapters)
            fresh.steps = int(meta["step"])
        self.adapters, self.optimizer, self.gradients = loaded, fresh, None

    def snapshot(self) -> SamplingModel:
        """The model as it is now, to sample from; later training does not change it."""
        weights = lora.merged(self.base.weights, self.adapters, self._names, self.rank)
        return SamplingModel(self.base, weights)

    def _run(
        self,
        data: Sequence[Any],
        loss_fn: str,
        loss_fn_config: Optional[Mapping[str, Any]],
        *,
        backward: bool,
    ) -> Dict[str, Any]:
        configured = settings(loss_fn, loss_fn_config)
        if not isinstance(data, (list, tuple)) or not data:
            raise EngineError("data is empty: send at least one datum")
        datums = [datum(self.base, item, index, loss_fn) for index, item in enumerate(data)]
        outputs: List[Dict[str, Any]] = [{} for _ in datums]
        gradients: Dict[str, Any] = {}
        for batch in _batches(self.base.config, [item.prompt.length for item in datums]):
            logprobs, pull_back = self._logprobs([datums[index] for index in batch], backward)
            losses, derivative = evaluate(loss_fn, logprobs, _gathered(datums, batch, configured))
            start = 0
            for index in batch:
                part = slice(start, start + datums[index].prompt.length)
                start = part.stop
                if not (np.isfinite(losses[part]).all() and np.isfinite(derivative[part]).all()):
                    raise EngineError(
                        f"datum {index}: the {loss_fn} loss is not finite; the model's log probabilities are"
                        f" {logprobs[part].min():.3g} to {logprobs[part].max():.3g}: check the datum's"
                        " logprobs (natural logs, as sampled) and the size of its advantages or weights"
                    )
                outputs[index] = {
                    "logprobs": _tensor(logprobs[part]),
                    "elementwise_loss": _tensor(losses[part]),
                }
            if backward:
                _add(gradients, pull_back(derivative))
        if backward:
            if not all(np.isfinite(array).all() for array in gradients.values()):
                raise EngineError(
                    "the gradient is not finite: lower the learning rate, weights or advantages"
                )
            if self.gradients is None:
                self.gradients = {}
            _add(self.gradients, gradients)
        losses = [output["elementwise_loss"]["data"] for output in outputs]
        return {
            "loss_fn_output_type": "TensorData",
            "loss_fn_outputs": outputs,
            "metrics": {
                "loss:sum": float(sum(np.sum(loss, dtype=np.float64) for loss in losses)),
                "tokens:sum": float(sum(len(loss) for loss in losses)),
            },
        }

    def _logprobs(self, datums: List[Datum], backward: bool) -> Tuple[Any, Any]:
        """Target log probabilities of a batch, one flat array, and their vector-Jacobian product."""
        config = self.base.config
        lengths = [item.prompt.length for item in datums]
        embeddings = np.zeros((len(datums), max(lengths), config.dim), np.float32)
        for row, item in enumerate(datums):
            embeddings[row, : lengths[row]] = item.prompt.embeddings
        positions = np.concatenate([row * max(lengths) + np.arange(n) for row, n in enumerate(lengths)])
        targets = np.concatenate([item.targets for item in datums])

        def logprobs(adapters: Any) -> Any:
            weights = lora.merged(self.base.weights, adapters, self._names, self.rank)
            return target_logprobs(config, weights, embeddings, positions, targets)

        if not backward:
            return logprobs(self.adapters), None
        pull_back, values = make_vjp(logprobs)(self.adapters)
        return values, pull_back


def _batches(config: ModelConfig, lengths: List[int]) -> List[List[int]]:
    """Indices of datums to compute together: of like length, so that little is padding; bounded in memory."""
    batches: List[List[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        time = lengths[index]  # the longest of its batch, as lengths ascend
        rows = len(batches[-1]) + 1 if batches else 1
        if rows == 1 or rows * time > _BATCH_POSITIONS or rows * config.heads * time * time > _BATCH_WEIGHTS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _gathered(datums: List[Datum], batch: List[int], configured: Mapping[str, float]) -> Dict[str, Any]:
    """The loss inputs of a batch, one flat array per key; a datum's own thresholds go first."""
    keys = {*configured, *(key for index in batch for key in datums[index].inputs)}
    return {
        key: np.concatenate(
            [
                datums[index].inputs[key]
                if key in datums[index].inputs
                else np.full(datums[index].prompt.length, configured[key], np.float32)
                for index in batch
            ]
        )
        for key in keys
    }


def _add(total: Dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, array in part.items():
        total[name] = total[name] + array if name in total else array


def _tensor(values: Any) -> Dict[str, Any]:
    return {"data": values, "dtype": "float32", "shape": [len(values)]}
