"""Training: a base model, its adapters, their gradients and their optimizer."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np
from autograd import make_vjp

from . import adapters as lora
from .architecture import BaseModel, ModelConfig
from .errors import EngineError
from .inputs import TrainingExample, parse_datum
from .losses import evaluate, parse_settings
from .network import target_logprobs
from .optimizer import AdamSettings, AdamW
from .sampling import SamplingModel, adapters_from

#: The most positions and attention weights of a batch that is computed together.
_BATCH_POSITIONS = 4096
_BATCH_WEIGHTS = 8 * 1024 * 1024

Model = TypeVar("Model", bound="TrainingModel")


class TrainingModel:
    """LoRA adapters on a base model, trained by ``forward_backward`` and ``optim_step``.

    The same calls in the same order give the same bits if BLAS runs on one thread. A call that raises EngineError
    changes nothing. Not thread-safe; different models may be used in different threads.

    Args:
        base_model: The name of the base model.
        rank: The rank of every adapter, 1 to 256.
        seed: Determines the initial adapters. None: seed 0.
        train_attn: Train adapters of the attention maps.
        train_mlp: Train adapters of the feed-forward maps.
        train_unembed: Train the adapter of the unembedding.

    Raises:
        EngineError: The base model does not exist, or a value is out of range.
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
        self._names = lora.adapted_maps(self.base.config, **self._trained)
        self.adapters = lora.initial_adapters(self.base.config, self._names, rank, 0 if seed is None else seed)
        self.optimizer = AdamW(self.adapters)
        #: The sum of the gradients since the last optimizer step, by adapter. None if there are none.
        self.gradients: Optional[Dict[str, Any]] = None

    def forward(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: Optional[Mapping[str, Any]] = None
    ) -> Dict[str, Any]:
        """Evaluate the loss without gradients.

        Args:
            data: Datums decoded from JSON.
            loss_fn: The name of the loss function.
            loss_fn_config: The settings of the loss function.

        Returns:
            Per datum, ``logprobs`` of the target tokens (natural logs) and ``elementwise_loss``, float32 of the shape
            of the targets. The metric ``loss:sum`` is the sum over all tokens of all datums.

        Raises:
            EngineError: The data does not match the loss function or the model.
        """
        return self._run(data, loss_fn, loss_fn_config, backward=False)

    def forward_backward(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: Optional[Mapping[str, Any]] = None
    ) -> Dict[str, Any]:
        """Evaluate the loss like ``forward``, and add the gradient of ``loss:sum`` to the accumulated gradient."""
        return self._run(data, loss_fn, loss_fn_config, backward=True)

    def optim_step(self, adam: Mapping[str, Any]) -> Dict[str, float]:
        """Make one AdamW step with the accumulated gradient, and reset the gradient.

        Without an accumulated gradient the gradient is zero. Weight decay and momentum still have an effect.

        Args:
            adam: The ``adam_params`` of the request.

        Returns:
            Metrics. ``grad_norm:mean`` is the norm of the gradient before clipping.

        Raises:
            EngineError: ``adam`` contains an unknown key or a value out of range.
        """
        settings = AdamSettings.parse(adam)
        gradients = self.gradients or {name: np.zeros_like(array) for name, array in self.adapters.items()}
        norm = self.optimizer.step(self.adapters, gradients, settings)
        self.gradients = None
        return {
            "grad_norm:mean": norm,
            "learning_rate:mean": settings.learning_rate,
            "step:max": float(self.optimizer.steps),
        }

    def meta(self) -> Dict[str, Any]:
        """Return the description of a checkpoint as a JSON object. ``step`` is the number of optimizer steps."""
        return {
            "base_model": self.base.name,
            "rank": self.rank,
            "seed": self.seed,
            **self._trained,
            "step": self.optimizer.steps,
        }

    def arrays(self, optimizer: bool) -> Dict[str, Any]:
        """Return copies of the adapters and, with ``optimizer``, of its moments, without accumulated gradients."""
        groups = {"lora": self.adapters}
        if optimizer:
            groups.update(first=self.optimizer.first, second=self.optimizer.second)
        return {f"{group}.{name}": array.copy() for group, part in groups.items() for name, array in part.items()}

    @classmethod
    def from_checkpoint(cls: Type[Model], meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> Model:
        """Create the model of a checkpoint, with its optimizer state if the checkpoint has one.

        Raises:
            EngineError: ``meta`` does not describe ``arrays``.
        """
        try:
            trained = {key: meta[key] for key in ("train_attn", "train_mlp", "train_unembed")}
            model = cls(meta["base_model"], rank=meta["rank"], seed=meta["seed"], **trained)
        except KeyError as error:
            raise EngineError(f"the description of the checkpoint lacks {error}: save it again") from None
        model.load(meta, arrays, any(name.startswith("first.") for name in arrays))
        return model

    def load(self, meta: Mapping[str, Any], arrays: Mapping[str, Any], optimizer: bool) -> None:
        """Load the adapters of a checkpoint, and reset the accumulated gradient.

        Args:
            meta: The description of the checkpoint.
            arrays: Its arrays.
            optimizer: Load its optimizer state. False: reset the optimizer.

        Raises:
            EngineError: The base model, the rank or the trained parts differ, or there is no optimizer state.
        """
        own = self.meta()
        for key in ("base_model", "rank", "train_attn", "train_mlp", "train_unembed"):
            if meta.get(key) != own[key]:
                raise EngineError(
                    f"the checkpoint has {key} {meta.get(key)!r}, this model {own[key]!r}: create a model with"
                    " the values of the checkpoint"
                )
        loaded = adapters_from(arrays, "lora", self.adapters)
        fresh = AdamW(loaded)
        if optimizer:
            fresh.first = adapters_from(arrays, "first", self.adapters)
            fresh.second = adapters_from(arrays, "second", self.adapters)
            fresh.steps = int(meta["step"])
        self.adapters, self.optimizer, self.gradients = loaded, fresh, None

    def snapshot(self) -> SamplingModel:
        """Return the current model for sampling. Later training does not change it."""
        weights = lora.merge_adapters(self.base.weights, self.adapters, self._names, self.rank)
        return SamplingModel(self.base, weights)

    def _run(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: Optional[Mapping[str, Any]], *, backward: bool
    ) -> Dict[str, Any]:
        settings = parse_settings(loss_fn, loss_fn_config)
        if not isinstance(data, (list, tuple)) or not data:
            raise EngineError("data is empty: send at least one datum")
        examples = [parse_datum(self.base, item, index, loss_fn) for index, item in enumerate(data)]
        outputs: List[Dict[str, Any]] = [{} for _ in examples]
        gradients: Dict[str, Any] = {}
        for batch in _batches(self.base.config, [example.prompt.length for example in examples]):
            batch_examples = [examples[index] for index in batch]
            logprobs, vector_jacobian_product = self._logprobs(batch_examples, backward)
            inputs = _concatenated_inputs(batch_examples, settings)
            losses, derivative = evaluate(loss_fn, logprobs, inputs)
            start = 0
            for index in batch:
                part = slice(start, start + examples[index].targets.size)
                start = part.stop
                _check_finite(index, loss_fn, logprobs[part], losses[part], derivative[part])
                outputs[index] = {
                    "logprobs": _tensor(logprobs[part], examples[index].shape),
                    "elementwise_loss": _tensor(losses[part], examples[index].shape),
                }
            if backward:
                _add(gradients, vector_jacobian_product(derivative))
        if backward:
            self._accumulate(gradients)
        return _output(outputs)

    def _accumulate(self, gradients: Dict[str, Any]) -> None:
        if not all(np.isfinite(array).all() for array in gradients.values()):
            raise EngineError("the gradient is not finite: lower the learning rate, weights or advantages")
        if self.gradients is None:
            self.gradients = {}
        _add(self.gradients, gradients)

    def _logprobs(self, examples: List[TrainingExample], backward: bool) -> Tuple[Any, Any]:
        """Return the target log probabilities of a batch, one flat array, and their vector-Jacobian product."""
        config = self.base.config
        lengths = [example.prompt.length for example in examples]
        embeddings = np.zeros((len(examples), max(lengths), config.dim), np.float32)
        for row, example in enumerate(examples):
            embeddings[row, : lengths[row]] = example.prompt.embeddings
        positions = np.concatenate([row * max(lengths) + np.arange(n) for row, n in enumerate(lengths)])
        targets = np.concatenate([example.targets for example in examples])
        rows = np.repeat(np.arange(len(positions)), np.repeat([x.width for x in examples], lengths))

        def logprobs(adapters: Any) -> Any:
            weights = lora.merge_adapters(self.base.weights, adapters, self._names, self.rank)
            return target_logprobs(config, weights, embeddings, positions, rows, targets)

        if not backward:
            return logprobs(self.adapters), None
        pull_back, values = make_vjp(logprobs)(self.adapters)
        return values, pull_back


def _batches(config: ModelConfig, lengths: List[int]) -> List[List[int]]:
    """Group the indices of examples into batches of similar lengths, so that there is little padding."""
    batches: List[List[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        time = lengths[index]  # the longest of its batch, because lengths ascend
        rows = len(batches[-1]) + 1 if batches else 1
        if rows == 1 or rows * time > _BATCH_POSITIONS or rows * config.heads * time * time > _BATCH_WEIGHTS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _concatenated_inputs(examples: List[TrainingExample], settings: Mapping[str, float]) -> Dict[str, Any]:
    """Return the loss inputs of a batch, one flat array per key. Values of an example take precedence over settings."""
    keys = {*settings, *(key for example in examples for key in example.inputs)}
    return {
        key: np.concatenate(
            [
                example.inputs[key]
                if key in example.inputs
                else np.full(example.targets.size, settings[key], np.float32)
                for example in examples
            ]
        )
        for key in keys
    }


def _check_finite(index: int, loss_fn: str, logprobs: Any, losses: Any, derivative: Any) -> None:
    """Raise EngineError if the loss of an example is not finite."""
    if not (np.isfinite(losses).all() and np.isfinite(derivative).all()):
        raise EngineError(
            f"datum {index}: the {loss_fn} loss is not finite; the model's log probabilities are"
            f" {logprobs.min():.3g} to {logprobs.max():.3g}: check the logprobs of the datum (natural logs, as"
            " sampled) and the size of its advantages or weights"
        )


def _output(outputs: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Return the JSON object of a ForwardBackwardOutput."""
    losses = [output["elementwise_loss"] for output in outputs]
    return {
        "loss_fn_output_type": "TensorData",
        "loss_fn_outputs": outputs,
        "metrics": {
            "loss:sum": float(sum(np.sum(loss["data"], dtype=np.float64) for loss in losses)),
            "tokens:sum": float(sum(loss["shape"][0] for loss in losses)),
        },
    }


def _add(total: Dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, array in part.items():
        total[name] = total[name] + array if name in total else array


def _tensor(values: Any, shape: List[int]) -> Dict[str, Any]:
    return {"data": values, "dtype": "float32", "shape": shape}
