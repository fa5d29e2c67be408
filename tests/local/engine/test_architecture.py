"""The weights of base models."""

import numpy as np
from engine_data import CONFIG, SMALL

from tinkex_sync.local.engine import BaseModel


def same_bits(one, other):
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_base_weights_have_the_same_bits_each_time():
    assert same_bits(BaseModel("one", CONFIG).weights, BaseModel("other", CONFIG).weights)
    assert BaseModel.get(SMALL, CONFIG) is BaseModel.get(SMALL, CONFIG)
    # The first random numbers of the seed. No numpy version may change them.
    first = np.random.RandomState(CONFIG.seed).standard_normal((258, CONFIG.dim)).astype(np.float32)
    assert BaseModel("one", CONFIG).weights["embed"].tobytes() == first.tobytes()
