"""Generated responses for the decoders, and the check that each ends in a value or in a TinkexError that pickles."""

import contextlib
import datetime
import functools
import os
import pickle
from typing import Union, get_args, get_origin

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tinkex_sync.errors import TinkexError
from tinkex_sync.types.wire import Wire

#: How many times the usual number of responses is generated; more than 1 also means other responses in each run.
FACTOR = int(os.environ.get("TINKEX_FUZZ_FACTOR", "1"))


def generated(examples):
    """Return the settings of a test that generates ``examples`` responses, or a multiple with TINKEX_FUZZ_FACTOR."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=FACTOR == 1,
        database=None,
    )


NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**63, -(2**64), 10**400, 1e308, -1, 0, float("nan"), float("inf")])
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=8),  # Surrogates included.
    st.sampled_from(
        ["9" * 4000, "1e999", "nan", "-1", "\ud800", "0001-01-01T00:00:00+23:59", "2025-13-45", "\x1b[2J\n"]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


@functools.cache
def bodies(kind):
    """Return a strategy of objects with the keys of a wire type and values that fit, or do not."""
    values = {
        name: st.one_of(st.deferred(lambda hint=info.annotation: values_of(hint)), JSON)
        for name, info in kind.model_fields.items()
    }
    return st.one_of(st.fixed_dictionaries(values), st.fixed_dictionaries({}, optional=values), JSON)


def values_of(hint):
    """Return a strategy of the JSON of values with this annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Union:
        return st.one_of(*(values_of(one) for one in arguments))
    if origin is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXTS, values_of(arguments[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, Wire):
        return bodies(hint)
    return {int: NUMBERS, float: NUMBERS, str: TEXTS, datetime.datetime: st.one_of(TEXTS, NUMBERS)}.get(hint, JSON)


#: What the checks of this process have counted: "values", "errors".
counts = {"values": 0, "errors": 0}


def check(decode):
    """Run a decoder; its result has a repr, and its error can be printed and pickled."""
    try:
        result = decode()
    except TinkexError as error:
        counts["errors"] += 1
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        str(error).encode()
        return None
    counts["values"] += 1
    repr(result).encode()
    pickle.loads(pickle.dumps(result))
    return result


@contextlib.contextmanager
def report(capsys):
    """Print the counts of a test."""
    before = dict(counts)
    yield
    if FACTOR > 1:
        with capsys.disabled():
            print({name: counts[name] - before[name] for name in counts})
