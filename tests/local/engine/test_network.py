"""Dependencies between positions."""

import numpy as np
from engine_data import randomized_model

from tinkex_sync.local.engine.network import hidden_states


def test_position_does_not_depend_on_later_positions():
    model = randomized_model()
    config, weights = model.base.config, model.base.weights
    embedded = np.random.RandomState(4).standard_normal((1, 12, config.dim)).astype(np.float32)
    changed = embedded.copy()
    changed[:, 7:] = 0
    before, after = (hidden_states(config, weights, x) for x in (embedded, changed))
    np.testing.assert_allclose(before[:7], after[:7], atol=1e-6)
    assert np.abs(before[7:] - after[7:]).max() > 0.1


def test_order_of_earlier_tokens_matters():
    model = randomized_model()
    config, weights = model.base.config, model.base.weights
    embedded = np.random.RandomState(4).standard_normal((1, 12, config.dim)).astype(np.float32)
    swapped = embedded[:, [0, 2, 1, *range(3, 12)]]
    before, after = (hidden_states(config, weights, x) for x in (embedded, swapped))
    assert np.abs(before[5:] - after[5:]).max() > 1e-2
