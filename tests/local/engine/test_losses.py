"""The loss functions, compared with numbers computed by hand."""

import math

import numpy as np
import pytest
from engine_data import batch_for, datum, plain_batch, randomized_model

from tinkex_sync.local.engine import EngineError
from tinkex_sync.local.engine.losses import evaluate

CLIPS = {"clip_low_threshold": np.float32(0.8), "clip_high_threshold": np.float32(1.2)}


def at(loss_fn, ratio, advantage, **settings):
    """Return loss and derivative of one token that was sampled with probability 0.5."""
    q = math.log(0.5)
    inputs = {"logprobs": np.float64([q]), "advantages": np.float64([advantage]), **settings}
    loss, derivative = evaluate(loss_fn, np.float64([q + math.log(ratio)]), inputs)
    return float(loss[0]), float(derivative[0])


def test_cross_entropy_is_the_weighted_negative_log_probability():
    loss, derivative = evaluate("cross_entropy", np.float64([-2.0, -3.0]), {"weights": np.float64([1.0, 0.5])})
    assert loss.tolist() == [2.0, 1.5]
    assert derivative.tolist() == [-1.0, -0.5]


def test_importance_sampling_multiplies_the_advantage_by_the_ratio():
    assert at("importance_sampling", 1.5, 2.0) == pytest.approx((-3.0, -3.0))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "derivative"),
    [
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # above the bound: no further reward
        (0.5, 2.0, -1.0, -1.0),  # below the bound: the gradient increases the ratio
        (1.5, -2.0, 3.0, 3.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.0, 2.0, -2.0, -2.0),  # on policy: the whole gradient
    ],
)
def test_ppo_clips_the_ratio_where_it_would_be_rewarded(ratio, advantage, loss, derivative):
    assert at("ppo", ratio, advantage, **CLIPS) == pytest.approx((loss, derivative), rel=1e-6)


@pytest.mark.parametrize(("ratio", "weight"), [(0.5, 0.8), (1.1, 1.1), (1.5, 1.2)])
def test_cispo_clips_the_weight_and_keeps_the_gradient(ratio, weight):
    lp = math.log(0.5 * ratio)
    assert at("cispo", ratio, 2.0, **CLIPS) == pytest.approx((-weight * 2.0 * lp, -weight * 2.0), rel=1e-6)


def test_dro_has_a_quadratic_penalty():
    lp, distance = math.log(0.75), math.log(1.5)
    expected = (-(2.0 * lp - 0.05 * distance**2), -(2.0 - 0.1 * distance))
    assert at("dro", 1.5, 2.0, beta=0.1) == pytest.approx(expected)


def test_weight_0_masks_a_token():
    model = randomized_model()
    x, y = plain_batch()[0]
    other = [*y[:-1].tolist(), (int(y[-1]) + 1) % 258]
    weights = [1.0] * (len(x) - 1) + [0.0]
    losses = [
        model.forward([datum(x, targets, weights=weights)], "cross_entropy", None)["metrics"]["loss:sum"]
        for targets in (y, other)
    ]
    assert losses[0] == losses[1]


def test_clip_bounds_are_taken_from_the_configuration_or_the_datum():
    model = randomized_model()
    data = batch_for("ppo", model)
    default = model.forward(data, "ppo", None)["metrics"]["loss:sum"]
    wide = model.forward(data, "ppo", {"clip_low_threshold": 0.0, "clip_high_threshold": 100.0})["metrics"]["loss:sum"]
    assert wide == pytest.approx(model.forward(data, "importance_sampling", None)["metrics"]["loss:sum"], rel=1e-6)
    assert abs(wide - default) > 0.1
    for item in data:
        length = len(item["loss_fn_inputs"]["logprobs"]["data"])
        for key, bound in (("clip_low_threshold", 0.0), ("clip_high_threshold", 100.0)):
            item["loss_fn_inputs"][key] = {"data": [bound] * length, "dtype": "float32"}
    assert model.forward(data, "ppo", None)["metrics"]["loss:sum"] == wide


def test_beta_of_dro_is_configurable():
    model = randomized_model()
    data = batch_for("dro", model)
    near, far = (model.forward(data, "dro", {"beta": beta})["metrics"]["loss:sum"] for beta in (0.0, 1.0))
    assert far > near + 0.5


@pytest.mark.parametrize(
    ("loss_fn", "config", "words"),
    [
        ("mse", None, "'mse'.*cross_entropy"),
        (None, None, "None"),
        ("ppo", {"clip": 1.0}, "'clip'.*clip_low_threshold"),
        ("cross_entropy", {"beta": 1.0}, "'beta'.*none"),
        ("dro", {"beta": float("nan")}, "beta is nan"),
        ("dro", {"beta": None}, "beta is None"),
    ],
)
def test_error_for_an_unknown_loss_or_setting_lists_the_known_ones(loss_fn, config, words):
    model = randomized_model()
    with pytest.raises(EngineError, match=words):
        model.forward_backward(batch_for("ppo", model), loss_fn, config)
    assert model.gradients is None
