"""Small models and datums for the tests of the engine."""

from __future__ import annotations

import numpy as np

from tinkex_sync.local.engine import TrainingModel
from tinkex_sync.local.engine.architecture import BASE_MODELS, ModelConfig

SMALL = "test/small"
#: Small enough for finite differences, with the structure of the real models.
CONFIG = ModelConfig(dim=16, layers=2, heads=2, hidden=24, context=64, seed=7)
BASE_MODELS[SMALL] = CONFIG

LENGTHS = (5, 9, 2)
RATIOS = (0.5, 0.9, 1.1, 2.0)  # below, inside, inside and above the default clip bounds


def tensor(values, dtype="float32"):
    return {"data": list(values), "dtype": dtype, "shape": [len(values)]}


def datum(tokens, targets, **inputs):
    arrays = {key: tensor(values) for key, values in inputs.items()}
    return {
        "model_input": {"chunks": [{"tokens": list(tokens)}]},
        "loss_fn_inputs": {"target_tokens": tensor(targets, "int64"), **arrays},
    }


def text_datum(text, **inputs):
    tokens = list(text.encode())
    return datum(tokens[:-1], tokens[1:], **inputs)


def randomized_model(seed=3, **options):
    """Return a small model in which no adapter, and therefore no gradient, is zero."""
    model = TrainingModel(SMALL, rank=3, seed=1, **options)
    stream = np.random.RandomState(seed)
    for array in model.adapters.values():
        array += 0.15 * stream.standard_normal(array.shape).astype(np.float32)
    return model


def plain_batch(seed=5):
    """Return tokens and targets of datums of different lengths."""
    stream = np.random.RandomState(seed)
    return [(stream.randint(0, 258, n), stream.randint(0, 258, n)) for n in LENGTHS]


def batch_for(loss_fn, model):
    """Return datums for ``loss_fn`` with the probability ratios in RATIOS and advantages of both signs."""
    rows = plain_batch()
    if loss_fn == "cross_entropy":
        return [datum(x, y, weights=np.linspace(-0.5, 2, len(x)).tolist()) for x, y in rows]
    bare = [datum(x, y) for x, y in rows]
    outputs = model.forward(bare, "cross_entropy", None)["loss_fn_outputs"]
    data = []
    for (x, y), output in zip(rows, outputs):
        places = np.arange(len(x))
        old = output["logprobs"]["data"] - np.log(np.array(RATIOS)[places % 4])
        advantages = np.where(places // 4 % 2, -1.5, 0.7) * np.where(places % 2, 1, -1)
        data.append(datum(x, y, logprobs=old.tolist(), advantages=advantages.tolist()))
    return data
