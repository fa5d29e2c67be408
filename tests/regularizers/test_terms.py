"""Terms: the base class, sums of several regularizers, their metrics, and training on the embedded server."""

import math
import sys

import pytest
from regularizer_examples import DATA, LP, REF, cubes, datum, flat, needs_torch, tensors, torch

from tinkex_sync import MissingExtraError, types
from tinkex_sync import regularizers as r


def test_error_for_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinkex-sync\[torch\]"'):
        r.L1(0.1)


@needs_torch
def test_cross_entropy_equals_the_loss_of_the_server():
    data = [datum(4, weights=[0.0, 1.0, 2.0]), datum(3)]
    del data[1].loss_fn_inputs["weights"]
    loss, metrics = r.cross_entropy(data, tensors())
    assert float(loss) == 1.25 + 4.0 + 1.0 and metrics == {}


@needs_torch
def test_regularized_adds_all_terms_and_merges_their_metrics():
    def base(data, logprobs):
        return sum(lp.sum() for lp in logprobs), {"mine": 7}

    def own(data, logprobs):
        return 2.0 * logprobs[0].sum(), {"own": 1}

    loss = r.regularized(base, [r.L1(0.5), r.L1(0.25, name="again"), r.L2(0.0), own], gradient_norms=True)
    leaves = tensors(requires_grad=True)
    total, metrics = loss(DATA, leaves)
    assert float(total.detach()) == -4.75 + 0.5 * 4.75 + 0.25 * 4.75 + 2.0 * -3.75
    assert metrics == {
        "mine": 7,
        "own": 1,
        "loss/base": -4.75,
        "regularizer/l1": 4.75,
        "regularizer/l1/weighted": 2.375,
        "regularizer/again": 4.75,
        "regularizer/again/weighted": 1.1875,
        "regularizer/l2": sum(x * x for x in flat(LP)),
        "regularizer/l2/weighted": 0.0,
        "regularizer/total": 0.75 * 4.75 - 7.5,
        "loss/total": float(total.detach()),
        "loss/base/gradient_norm": pytest.approx(math.sqrt(5)),
        "regularizer/l1/gradient_norm": pytest.approx(0.5 * math.sqrt(5)),
        "regularizer/again/gradient_norm": pytest.approx(0.25 * math.sqrt(5)),
        "regularizer/l2/gradient_norm": 0.0,
        "regularizer/own/gradient_norm": pytest.approx(2 * math.sqrt(3)),
        "loss/total/gradient_norm": pytest.approx(math.sqrt(3 * 2.25**2 + 2 * 0.25**2)),
    }
    total.backward()
    assert leaves[0].grad.tolist() == [2.25] * 3 and leaves[1].grad.tolist() == [0.25] * 2


@needs_torch
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: r.L1(-1.0), ValueError, r"weight must be finite and >= 0, got -1\.0"),
        (lambda: r.L1(math.nan), ValueError, "nan"),
        (lambda: r.L1("much"), ValueError, "weight must be a number, got 'much'"),
        (lambda: r.L1(target="logits"), ValueError, "target must be one of 'logprobs', 'probs', got 'logits'"),
        (lambda: r.L2(reduction="none"), ValueError, "reduction must be one of"),
        (lambda: r.L2(center="median"), ValueError, "center"),
        (lambda: r.L2(clip=0), ValueError, "clip must be > 0, got 0"),
        (lambda: r.ElasticNet(l1_ratio=1.5), ValueError, "l1_ratio must be from 0 to 1, got 1.5"),
        (lambda: r.Entropy(mode="more"), ValueError, "mode"),
        (lambda: r.Entropy(temperature=0), ValueError, "temperature must be finite and > 0, got 0"),
        (lambda: r.KLDivergence(direction="back"), ValueError, "direction"),
        (lambda: r.KLDivergence(estimator="k3", symmetric=True), ValueError, "forward direction"),
        (lambda: r.Consistency(metric="l3"), ValueError, "metric"),
        (lambda: r.Orthogonality(mode="firm"), ValueError, "mode"),
        (lambda: r.Orthogonality(axis="rows"), ValueError, "axis"),
        (lambda: r.GradientPenalty(), TypeError, "loss_fn must be a function of"),
        (lambda: r.GradientPenalty(loss_fn=cubes, target_norm=-1), ValueError, "target_norm"),
        (lambda: r.regularized(cubes, [r.L1(), r.L1()]), ValueError, "two terms are named 'l1'"),
        (lambda: r.regularized("cross_entropy", []), TypeError, "got 'cross_entropy'"),
    ],
)
def test_invalid_arguments_are_rejected_when_a_term_is_created(make, error, message):
    with pytest.raises(error, match=message):
        make()


@needs_torch
@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda: r.KLDivergence(), KeyError, r"reference 'reference_logprobs' is missing in data\[0\]"),
        (lambda: r.KLDivergence(reference=REF[:1]), ValueError, "one tensor per datum: expected 2, got 1"),
        (lambda: r.Consistency(pair=[[0.0], [0.0]]), ValueError, r"pair of data\[0\] has shape \[1\]"),
        (lambda: r.L1(mask="target"), KeyError, "mask 'target' is missing"),
        (lambda: r.L1(mask="weights", target=lambda d, lp: [x[:1] for x in lp]), ValueError, "one number per"),
        (lambda: r.GradientPenalty(loss_fn=lambda d, lp: torch.ones(())), ValueError, "has no gradient"),
        (lambda: r.regularized(r.regularized(cubes, [r.L1()]), [r.L2()]), ValueError, "two parts return the metric"),
    ],
)
def test_errors_name_the_argument_that_does_not_fit_the_data(loss, error, message):
    with pytest.raises(error, match=message):
        loss()(DATA, tensors(requires_grad=True))


def train(service, data, loss_fn, steps=8):
    """Train, and return the logprobs of ``data`` after the last step with the metrics of that step."""
    client = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    metrics = {}
    for _ in range(steps):
        metrics = client.forward_backward_custom(data, loss_fn).metrics
        client.optim_step(types.AdamParams(learning_rate=2e-2))
    outputs = client.forward(data, "cross_entropy").loss_fn_outputs
    return [output["logprobs"].tolist() for output in outputs], metrics


@needs_torch
def test_kl_penalty_keeps_the_trained_model_near_its_reference(service):
    data = [datum(12), datum(20)]
    start, _ = train(service, data, r.cross_entropy, steps=0)

    def distance_from_start(logprobs):
        return sum((x - y) ** 2 for x, y in zip(flat(logprobs), flat(start)))

    plain, metrics = train(service, data, r.cross_entropy)
    assert not any(name.startswith("regularizer/") for name in metrics)
    loss = r.regularized(r.cross_entropy, [r.KLDivergence(20.0, reference=start, estimator="k2"), r.Entropy(0.1)])
    penalized, metrics = train(service, data, loss)
    assert distance_from_start(penalized) < 0.5 * distance_from_start(plain), (
        "the penalty keeps the model near the reference"
    )
    assert metrics["loss/total"] == pytest.approx(metrics["loss/base"] + metrics["regularizer/total"], rel=1e-5)
    for name, weight in (("kl_divergence", 20.0), ("entropy", 0.1)):
        value = metrics[f"regularizer/{name}"]
        assert value > 0
        assert metrics[f"regularizer/{name}/weighted"] == pytest.approx(weight * value, rel=1e-5)
    assert "loss:sum" in metrics, "metrics of the server are present too"


@needs_torch
def test_error_for_numpy_arrays_names_the_remedy(service):
    client = service.create_lora_training_client("tinkex/tiny", rank=4)
    with pytest.raises(TypeError, match='got ndarray: call forward_backward_custom with backend="torch"'):
        client.forward_backward_custom([datum(5)], r.L1(1.0), backend="numpy")
