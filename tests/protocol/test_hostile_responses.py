"""Generated responses: each decoder returns a value or raises a TinkexError that pickles, and never another error."""

import json

import pytest
from hostile_responses import JSON, NUMBERS, TEXTS, bodies, check, generated, report
from hypothesis import given
from hypothesis import strategies as st

from tinkex_sync import types
from tinkex_sync.errors import TinkexError
from tinkex_sync.http.endpoints import ENDPOINTS
from tinkex_sync.http.retry import retry_after
from tinkex_sync.protocol import json_wire, protobuf_reader, protobuf_schema
from tinkex_sync.types.wire import Wire


@pytest.fixture(autouse=True)
def _report(capsys):
    with report(capsys):
        yield


RESPONSES = {
    kind for row in ENDPOINTS.values() for kind in (row.response_type, row.result_type) if isinstance(kind, type)
}


@pytest.mark.parametrize("kind", sorted(RESPONSES, key=lambda kind: kind.__name__))
def test_a_generated_json_response_is_decoded_or_refused(kind):
    @generated(40)
    @given(bodies(kind) if issubclass(kind, Wire) else JSON)
    def run(body):
        content = json.dumps(body).encode()
        check(lambda: kind.from_wire(json_wire.decode(content)))

    run()


@generated(40)
@given(st.one_of(st.binary(), JSON.map(lambda body: json.dumps(body).encode()[:-1]), st.text('[]{}",:0', max_size=400)))
def test_generated_bytes_are_decoded_or_refused(content):
    content = content.encode() if isinstance(content, str) else content
    check(lambda: json_wire.decode(content))


@generated(40)
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

    @generated(300)
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
