"""Generated responses: each decoder returns a value or raises a TinkexError that pickles, and never another error."""

import datetime
import functools
import json
import pickle
from typing import Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinkex_sync import types
from tinkex_sync.errors import TinkexError
from tinkex_sync.http.endpoints import ENDPOINTS
from tinkex_sync.http.retry import retry_after
from tinkex_sync.protocol import json_wire, protobuf_reader, protobuf_schema
from tinkex_sync.types.wire import Wire

#: Raise ``max_examples`` for a longer run.
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

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


def check(decode):
    """Run a decoder; its result has a repr, and its error can be printed and pickled."""
    try:
        result = decode()
    except TinkexError as error:
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        str(error).encode()
        return None
    repr(result).encode()
    pickle.loads(pickle.dumps(result))
    return result


RESPONSES = {
    kind for row in ENDPOINTS.values() for kind in (row.response_type, row.result_type) if isinstance(kind, type)
}


@pytest.mark.parametrize("kind", sorted(RESPONSES, key=lambda kind: kind.__name__))
def test_a_generated_json_response_is_decoded_or_refused(kind):
    @FEW
    @given(bodies(kind) if issubclass(kind, Wire) else JSON)
    def run(body):
        content = json.dumps(body).encode()
        check(lambda: kind.from_wire(json_wire.decode(content)))

    run()


@FEW
@given(st.one_of(st.binary(), JSON.map(lambda body: json.dumps(body).encode()[:-1]), st.text('[]{}",:0', max_size=400)))
def test_generated_bytes_are_decoded_or_refused(content):
    content = content.encode() if isinstance(content, str) else content
    check(lambda: json_wire.decode(content))


@FEW
@given(TEXTS, NUMBERS)
def test_a_generated_retry_after_is_a_wait_of_at_most_a_minute_or_ignored(text, number):
    for headers in ({"retry-after": text}, {"retry-after": str(number)[:50]}, {"retry-after-ms": text}):
        found = retry_after(headers)
        assert found is None or 0 < found <= 60


def _example(kind):
    """Return a valid protobuf message with every part that a result may have."""
    made = protobuf_schema.message(kind.__name__)()
    if kind is types.ForwardBackwardOutput:
        made.metrics["loss:sum"] = 1.0
        record = made.loss_fn_outputs.add()
        record.num_datums = 2
        column = record.fields["logprobs"]
        column.dtype = 1
        column.data, column.offsets = bytes(16), b"".join(n.to_bytes(8, "little") for n in (0, 8, 16))
        return made.SerializeToString()
    sequence = made.sequences.add()
    sequence.tokens = sequence.logprobs = bytes(8)
    made.prompt_logprobs = bytes(12)
    made.topk_prompt_logprobs.k, made.topk_prompt_logprobs.length = 2, 1
    made.topk_prompt_logprobs.token_ids = made.topk_prompt_logprobs.logprobs = bytes(8)
    for tensor in (made.target_prompt_logprobs, made.prompt_alt_tokens.tokens, made.prompt_alt_tokens.logprobs):
        tensor.dtype, tensor.dense = 1, bytes(8)
        tensor.shape.extend([2])
    return made.SerializeToString()


@pytest.mark.parametrize("kind", protobuf_reader.RESULTS)
def test_a_mutated_protobuf_response_is_decoded_or_refused(kind):
    pytest.importorskip("google.protobuf")
    example = _example(kind)
    assert isinstance(protobuf_reader.decode(example, kind), kind)
    place = st.integers(0, len(example) - 1)

    @settings(FEW, max_examples=300)
    @given(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4), place, place, st.binary(max_size=12))
    def run(changes, start, stop, inserted):
        content = bytearray(example)
        for index, value in changes:
            content[index] = value
        content[start : max(start, min(stop, start + 3))] = inserted
        check(lambda: protobuf_reader.decode(bytes(content), kind))
        check(lambda: protobuf_reader.decode(inserted, kind))

    run()


def test_a_number_of_datums_that_no_field_confirms_is_refused():
    pytest.importorskip("google.protobuf")
    made = protobuf_schema.message("ForwardBackwardOutput")()
    made.loss_fn_outputs.add().num_datums = 2**31 - 1
    with pytest.raises(TinkexError, match="datums without fields"):
        protobuf_reader.decode(made.SerializeToString(), types.ForwardBackwardOutput)
