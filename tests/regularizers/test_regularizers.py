"""Regularizers: values by hand, gradients by finite differences, metrics, and a run on the embedded server."""

import math
import sys

import pytest

from tinkex_sync import MissingExtraError, types
from tinkex_sync import regularizers as r

try:
    import torch
except ImportError:
    torch = None

TEXT = b"a penalty for every word too many"


def datum(length, **inputs):
    tokens = list(TEXT[:length])
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (length - 1), **inputs},
    )


def test_a_missing_torch_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinkex-sync\[torch\]"'):
        r.L1(0.1)


needs_torch = pytest.mark.skipif(torch is None, reason="torch is not in this environment")

#: Two datums, of three tokens and of two, and a reference for them.
LP = [[-0.5, -1.25, -2.0], [-0.75, -0.25]]
REF = [[-1.0, -1.0, -1.5], [-0.5, -1.5]]
DATA = [datum(4), datum(3)]


def tensors(values=LP, requires_grad=False):
    return [torch.tensor(row, dtype=torch.float64, requires_grad=requires_grad) for row in values]


def exp(values):
    return [[math.exp(x) for x in row] for row in values]


def flat(values):
    return [x for row in values for x in row]


def kl(p, q):
    return sum(math.exp(x) * (x - y) for x, y in zip(p, q))


def entropy(row):
    return -sum(math.exp(x) * x for x in row)


def tempered(row, temperature):
    whole = math.log(sum(math.exp(x / temperature) for x in row))
    return [x / temperature - whole for x in row]


def cosine(p, q):
    return sum(x * y for x, y in zip(p, q)) / math.hypot(*p) / math.hypot(*q)


def cubes(data, logprobs):
    """A loss whose gradient by x is 3 x squared."""
    return sum((lp**3).sum() for lp in logprobs), {}


MEAN = sum(flat(LP)) / 5
PAIRS = list(zip(LP, REF))
# (term and its arguments, its value by hand); made late, as a term needs torch.
CASES = {
    "l1": (lambda: r.L1(), sum(-x for x in flat(LP))),
    "l1 mean of probs": (lambda: r.L1(target="probs", reduction="mean"), sum(flat(exp(LP))) / 5),
    "l1 of a function": (
        lambda: r.L1(target=lambda data, lp: [x * len(data) for x in lp]),
        2 * sum(-x for x in flat(LP)),
    ),
    "l2": (lambda: r.L2(), sum(x * x for x in flat(LP))),
    "l2 about the mean": (lambda: r.L2(center="mean"), sum((x - MEAN) ** 2 for x in flat(LP))),
    "l2 clipped": (
        lambda: r.L2(center=-1.0, clip=0.6, reduction="mean"),
        (0.5**2 + 0.25**2 + 0.6**2 + 0.25**2 + 0.6**2) / 5,
    ),
    "elastic net": (
        lambda: r.ElasticNet(l1_ratio=0.25),
        sum(0.25 * abs(x) + 0.75 * x * x for x in flat(LP)),
    ),
    "entropy": (lambda: r.Entropy(), (entropy(LP[0]) + entropy(LP[1])) / 2),
    "entropy maximized": (
        lambda: r.Entropy(mode="maximize", reduction="sum"),
        -entropy(LP[0]) - entropy(LP[1]),
    ),
    "entropy normalized": (
        lambda: r.Entropy(normalize=True, temperature=2.0),
        (entropy(tempered(LP[0], 2)) / math.log(3) + entropy(tempered(LP[1], 2)) / math.log(2)) / 2,
    ),
    "kl": (lambda: r.KLDivergence(reference=REF), sum(kl(p, q) for p, q in PAIRS) / 2),
    "kl reverse": (
        lambda: r.KLDivergence(reference=lambda data: REF, direction="reverse", reduction="sum"),
        sum(kl(q, p) for p, q in PAIRS),
    ),
    "kl symmetric": (
        lambda: r.KLDivergence(reference=REF, symmetric=True),
        sum(kl(p, q) + kl(q, p) for p, q in PAIRS) / 4,
    ),
    "kl k2": (
        lambda: r.KLDivergence(reference=REF, estimator="k2"),
        sum((x - y) ** 2 / 2 for x, y in zip(flat(LP), flat(REF))) / 5,
    ),
    "kl k3": (
        lambda: r.KLDivergence(reference=REF, estimator="k3"),
        sum(math.exp(y - x) - 1 - (y - x) for x, y in zip(flat(LP), flat(REF))) / 5,
    ),
    "consistency": (
        lambda: r.Consistency(pair=REF),
        sum((x - y) ** 2 for x, y in zip(flat(LP), flat(REF))) / 5,
    ),
    "consistency l1": (
        lambda: r.Consistency(pair=REF, metric="l1", reduction="sum"),
        sum(abs(x - y) for x, y in zip(flat(LP), flat(REF))),
    ),
    "consistency cosine": (
        lambda: r.Consistency(pair=REF, metric="cosine"),
        sum(1 - cosine(p, q) for p, q in PAIRS) / 2,
    ),
    "consistency kl": (
        lambda: r.Consistency(pair=REF, metric="kl"),
        sum(kl(p, q) + kl(q, p) for p, q in PAIRS) / 4,
    ),
    # The second datum is as [-0.75, -0.25, 0].
    "orthogonality": (lambda: r.Orthogonality(), 2 * cosine(LP[0], [*LP[1], 0.0]) ** 2),
    "orthogonality hard": (
        lambda: r.Orthogonality(mode="hard", normalize=False),
        (0.25 + 1.5625 + 4 - 1) ** 2 + (0.5625 + 0.0625 - 1) ** 2 + 2 * (0.375 + 0.3125) ** 2,
    ),
    "orthogonality spectral": (
        lambda: r.Orthogonality(mode="spectral", normalize=False),
        (0.25 + 1.5625 + 4 + 0.5625 + 0.0625 - 2) ** 2 + 2 * (0.375 + 0.3125) ** 2,
    ),
    "orthogonality of positions": (
        lambda: r.Orthogonality(axis="positions", normalize=False),
        2 * (0.625 + 0.1875) ** 2 + 2 * 1.0**2 + 2 * 2.5**2,
    ),
    "gradient penalty": (
        lambda: r.GradientPenalty(loss_fn=cubes),
        sum((math.sqrt(sum((3 * x * x) ** 2 for x in row)) - 1) ** 2 for row in LP) / 2,
    ),
    "gradient penalty to 4": (
        lambda: r.GradientPenalty(loss_fn=lambda data, lp: cubes(data, lp)[0], target_norm=4.0),
        sum((math.sqrt(sum((3 * x * x) ** 2 for x in row)) - 4) ** 2 for row in LP) / 2,
    ),
    "gradient penalty between": (
        lambda: r.GradientPenalty(loss_fn=cubes, mode="interpolated", reference=REF, seed=5),
        None,
    ),
}


@needs_torch
@pytest.mark.parametrize("name", CASES)
def test_the_value_is_the_formulas_and_the_gradient_that_of_finite_differences(name):
    make, by_hand = CASES[name]
    term = make()
    if by_hand is None:
        shares = torch.rand(2, generator=torch.Generator().manual_seed(term.seed)).tolist()
        points = [[e * x + (1 - e) * y for x, y in zip(p, q)] for e, (p, q) in zip(shares, PAIRS)]
        by_hand = sum((math.sqrt(sum((3 * x * x) ** 2 for x in row)) - 1) ** 2 for row in points) / 2
    value = term.value(DATA, tensors())
    assert value.shape == () and float(value.detach()) == pytest.approx(by_hand, rel=1e-12)
    leaves = tensors(requires_grad=True)
    assert torch.autograd.gradcheck(lambda *lp: term.value(DATA, list(lp)), leaves)


@needs_torch
def test_a_distribution_over_the_vocabulary_gives_the_textbook_value():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).double(), torch.tensor([[0.25, 0.5, 0.25]]).double()
    assert float(r.Entropy().value(DATA[:1], [p.log()])) == pytest.approx(1.5 * math.log(2))
    assert float(r.Entropy(normalize=True).value(DATA[:1], [(0 * p + 1 / 3).log()])) == pytest.approx(1.0)
    kl = r.KLDivergence(reference=[q.log()])
    assert float(kl.value(DATA[:1], [p.log()])) == pytest.approx(0.25 * math.log(2))


@needs_torch
def test_masked_tokens_do_not_count():
    data = [datum(4, weights=[0.0, 1.0, 2.0]), datum(3, weights=[0.0, 0.0])]
    kept = [[-1.25, -2.0], []]
    lp = tensors(requires_grad=True)
    assert float(r.L1(mask="weights").value(data, lp).detach()) == 3.25
    assert float(r.L2(mask="weights", reduction="mean").value(data, lp).detach()) == (1.25**2 + 4) / 2
    assert float(r.Consistency(mask="weights", pair=REF).value(data, lp).detach()) == (0.25**2 + 0.5**2) / 2
    assert float(r.Entropy(mask="weights").value(data, lp).detach()) == pytest.approx(entropy(kept[0]) / 2)
    penalty = r.GradientPenalty(mask="weights", loss_fn=cubes, target_norm=0.0).value(data, lp)
    assert float(penalty.detach()) == pytest.approx(sum((3 * x * x) ** 2 for x in kept[0]) / 2)
    penalty.backward()
    assert lp[0].grad[0] == 0 and lp[0].grad[1] != 0 and lp[1].grad.tolist() == [0, 0]
    cosine_alone = r.Consistency(mask="weights", metric="cosine", pair=REF).value(data, lp)
    assert float(cosine_alone.detach()) == pytest.approx((1 - cosine(kept[0], REF[0][1:])) / 2)
    nothing = [datum(4, weights=[0.0] * 3)]
    assert float(r.L1(mask="weights", reduction="mean").value(nothing, lp[:1]).detach()) == 0.0


@needs_torch
def test_cross_entropy_is_the_servers():
    data = [datum(4, weights=[0.0, 1.0, 2.0]), datum(3)]
    del data[1].loss_fn_inputs["weights"]
    loss, metrics = r.cross_entropy(data, tensors())
    assert float(loss) == 1.25 + 4.0 + 1.0 and metrics == {}


@needs_torch
def test_one_loss_of_several_with_the_metrics_of_each():
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
    ("make", "error", "said"),
    [
        (lambda: r.L1(-1.0), ValueError, "weight must be finite and not negative, not -1.0"),
        (lambda: r.L1(math.nan), ValueError, "nan"),
        (lambda: r.L1("much"), ValueError, "weight must be a number, not 'much'"),
        (
            lambda: r.L1(target="logits"),
            ValueError,
            "target must be one of 'logprobs', 'probs', not 'logits'",
        ),
        (lambda: r.L2(reduction="none"), ValueError, "reduction must be one of"),
        (lambda: r.L2(center="median"), ValueError, "center"),
        (lambda: r.L2(clip=0), ValueError, "clip must be above 0, not 0"),
        (lambda: r.ElasticNet(l1_ratio=1.5), ValueError, "l1_ratio must be from 0 to 1, not 1.5"),
        (lambda: r.Entropy(mode="more"), ValueError, "mode"),
        (lambda: r.Entropy(temperature=0), ValueError, "temperature must be finite and above 0, not 0"),
        (lambda: r.KLDivergence(direction="back"), ValueError, "direction"),
        (lambda: r.KLDivergence(estimator="k3", symmetric=True), ValueError, "forward direction"),
        (lambda: r.Consistency(metric="l3"), ValueError, "metric"),
        (lambda: r.Orthogonality(mode="firm"), ValueError, "mode"),
        (lambda: r.Orthogonality(axis="rows"), ValueError, "axis"),
        (lambda: r.GradientPenalty(), TypeError, "loss_fn must be the loss whose gradient counts"),
        (lambda: r.GradientPenalty(loss_fn=cubes, target_norm=-1), ValueError, "target_norm"),
        (lambda: r.regularized(cubes, [r.L1(), r.L1()]), ValueError, "two terms are named 'l1'"),
        (lambda: r.regularized("cross_entropy", []), TypeError, "not 'cross_entropy'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, error, said):
    with pytest.raises(error, match=said):
        make()


@needs_torch
@pytest.mark.parametrize(
    ("loss", "error", "said"),
    [
        (lambda: r.KLDivergence(), KeyError, r"reference 'reference_logprobs' is missing in data\[0\]"),
        (lambda: r.KLDivergence(reference=REF[:1]), ValueError, "one tensor per datum: 2, not 1"),
        (lambda: r.Consistency(pair=[[0.0], [0.0]]), ValueError, r"pair of data\[0\] has shape \[1\]"),
        (lambda: r.L1(mask="target"), KeyError, "mask 'target' is missing"),
        (
            lambda: r.L1(mask="weights", target=lambda d, lp: [x[:1] for x in lp]),
            ValueError,
            "one number per",
        ),
        (lambda: r.GradientPenalty(loss_fn=lambda d, lp: torch.ones(())), ValueError, "does not depend"),
        (lambda: r.regularized(r.regularized(cubes, [r.L1()]), [r.L2()]), ValueError, "reported twice"),
    ],
)
def test_what_does_not_fit_the_data_is_named(loss, error, said):
    with pytest.raises(error, match=said):
        loss()(DATA, tensors(requires_grad=True))


@needs_torch
def test_a_reference_may_lie_in_the_datums():
    data = [datum(4, logprobs=REF[0]), datum(3, logprobs=REF[1])]
    inside, beside = r.KLDivergence(reference="logprobs"), r.KLDivergence(reference=REF)
    assert float(inside.value(data, tensors())) == pytest.approx(float(beside.value(DATA, tensors())))


def train(service, data, loss_fn, steps=8):
    """Logprobs of ``data`` after some steps, and the last metrics."""
    client = service.create_lora_training_client("tinkex/tiny", rank=4, seed=3)
    metrics = {}
    for _ in range(steps):
        metrics = client.forward_backward_custom(data, loss_fn).metrics
        client.optim_step(types.AdamParams(learning_rate=2e-2))
    outputs = client.forward(data, "cross_entropy").loss_fn_outputs
    return [output["logprobs"].tolist() for output in outputs], metrics


@needs_torch
def test_training_on_the_embedded_server_with_and_without(service):
    data = [datum(12), datum(20)]
    start, _ = train(service, data, r.cross_entropy, steps=0)

    def apart(logprobs):
        return sum((x - y) ** 2 for x, y in zip(flat(logprobs), flat(start)))

    plain, metrics = train(service, data, r.cross_entropy)
    assert not any(name.startswith("regularizer/") for name in metrics)
    loss = r.regularized(
        r.cross_entropy, [r.KLDivergence(20.0, reference=start, estimator="k2"), r.Entropy(0.1)]
    )
    held, metrics = train(service, data, loss)
    assert apart(held) < 0.5 * apart(plain), "the reference holds the model back"
    assert metrics["loss/total"] == pytest.approx(
        metrics["loss/base"] + metrics["regularizer/total"], rel=1e-5
    )
    for name, weight in (("kl_divergence", 20.0), ("entropy", 0.1)):
        value = metrics[f"regularizer/{name}"]
        assert value > 0
        assert metrics[f"regularizer/{name}/weighted"] == pytest.approx(weight * value, rel=1e-5)
    assert "loss:sum" in metrics, "the server's own are there too"


@needs_torch
def test_numpy_arrays_are_refused_with_the_remedy(service):
    client = service.create_lora_training_client("tinkex/tiny", rank=4)
    with pytest.raises(TypeError, match='not on ndarray: call forward_backward_custom with backend="torch"'):
        client.forward_backward_custom([datum(5)], r.L1(1.0), backend="numpy")
