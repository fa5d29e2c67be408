"""Penalties: values computed by hand, and gradients compared with finite differences."""

import math

import pytest
from regularizer_examples import (
    DATA,
    LP,
    PAIRS,
    REF,
    cosine,
    cubes,
    datum,
    entropy,
    exp,
    flat,
    kl,
    needs_torch,
    tensors,
    torch,
    with_temperature,
)

from tinkex_sync import regularizers as r

MEAN = sum(flat(LP)) / 5
#: A function that creates the regularizer, and the value computed by hand. Creating one needs torch.
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
    "elastic net": (lambda: r.ElasticNet(l1_ratio=0.25), sum(0.25 * abs(x) + 0.75 * x * x for x in flat(LP))),
    "entropy": (lambda: r.Entropy(), (entropy(LP[0]) + entropy(LP[1])) / 2),
    "entropy maximized": (lambda: r.Entropy(mode="maximize", reduction="sum"), -entropy(LP[0]) - entropy(LP[1])),
    "entropy normalized": (
        lambda: r.Entropy(normalize=True, temperature=2.0),
        (entropy(with_temperature(LP[0], 2)) / math.log(3) + entropy(with_temperature(LP[1], 2)) / math.log(2)) / 2,
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
    "consistency": (lambda: r.Consistency(pair=REF), sum((x - y) ** 2 for x, y in zip(flat(LP), flat(REF))) / 5),
    "consistency l1": (
        lambda: r.Consistency(pair=REF, metric="l1", reduction="sum"),
        sum(abs(x - y) for x, y in zip(flat(LP), flat(REF))),
    ),
    "consistency cosine": (
        lambda: r.Consistency(pair=REF, metric="cosine"),
        sum(1 - cosine(p, q) for p, q in PAIRS) / 2,
    ),
    "consistency kl": (lambda: r.Consistency(pair=REF, metric="kl"), sum(kl(p, q) + kl(q, p) for p, q in PAIRS) / 4),
    # The second datum is padded to [-0.75, -0.25, 0].
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
    "gradient penalty with target norm 4": (
        lambda: r.GradientPenalty(loss_fn=lambda data, lp: cubes(data, lp)[0], target_norm=4.0),
        sum((math.sqrt(sum((3 * x * x) ** 2 for x in row)) - 4) ** 2 for row in LP) / 2,
    ),
    "gradient penalty interpolated": (
        lambda: r.GradientPenalty(loss_fn=cubes, mode="interpolated", reference=REF, seed=5),
        None,
    ),
}


@needs_torch
@pytest.mark.parametrize("name", CASES)
def test_value_equals_the_formula_and_gradient_equals_finite_differences(name):
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
def test_distribution_over_the_vocabulary_gives_the_value_of_the_definition():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).double(), torch.tensor([[0.25, 0.5, 0.25]]).double()
    assert float(r.Entropy().value(DATA[:1], [p.log()])) == pytest.approx(1.5 * math.log(2))
    assert float(r.Entropy(normalize=True).value(DATA[:1], [(0 * p + 1 / 3).log()])) == pytest.approx(1.0)
    kl = r.KLDivergence(reference=[q.log()])
    assert float(kl.value(DATA[:1], [p.log()])) == pytest.approx(0.25 * math.log(2))


@needs_torch
def test_masked_tokens_are_excluded():
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
def test_reference_can_be_a_field_of_the_datums():
    data = [datum(4, logprobs=REF[0]), datum(3, logprobs=REF[1])]
    inside, beside = r.KLDivergence(reference="logprobs"), r.KLDivergence(reference=REF)
    assert float(inside.value(data, tensors())) == pytest.approx(float(beside.value(DATA, tensors())))
