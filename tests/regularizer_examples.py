"""Datums, logprobs and reference formulas for the tests of regularizers."""

import math

import pytest

from tinkex_sync import types

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


needs_torch = pytest.mark.skipif(torch is None, reason="torch is not in this environment")

#: The logprobs of two datums, of three tokens and of two, and a reference for them.
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


def with_temperature(row, temperature):
    whole = math.log(sum(math.exp(x / temperature) for x in row))
    return [x / temperature - whole for x in row]


def cosine(p, q):
    return sum(x * y for x, y in zip(p, q)) / math.hypot(*p) / math.hypot(*q)


def cubes(data, logprobs):
    """Compute a loss whose derivative is 3 x squared."""
    return sum((lp**3).sum() for lp in logprobs), {}


PAIRS = list(zip(LP, REF))
