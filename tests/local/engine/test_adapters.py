"""Initial values and scale of adapters."""

import numpy as np
import pytest
from engine_data import SMALL

from tinkex_sync.local.engine import TrainingModel
from tinkex_sync.local.engine import adapters as lora


def same_bits(one, other):
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_initial_adapter_does_not_depend_on_the_other_trained_maps():
    every, only = TrainingModel(SMALL, rank=2, seed=5), TrainingModel(SMALL, rank=2, seed=5, train_attn=False)
    assert same_bits(only.adapters, {name: every.adapters[name] for name in only.adapters})


@pytest.mark.parametrize("rank", [2, 64])
def test_adapter_is_scaled_by_32_over_its_rank(rank):
    model = TrainingModel(SMALL, rank=rank, seed=0)
    weights = lora.merge_adapters(model.base.weights, model.adapters, ["unembed"], rank)
    assert weights["unembed"].tobytes() == model.base.weights["unembed"].tobytes()
    model.adapters["unembed.B"] += 1
    weights = lora.merge_adapters(model.base.weights, model.adapters, ["unembed"], rank)
    change = model.adapters["unembed.A"].sum(axis=1, keepdims=True) * 32 / rank
    np.testing.assert_allclose(weights["unembed"] - model.base.weights["unembed"], change + np.zeros(258), atol=1e-4)
    assert weights["unembed"].dtype == np.float32
