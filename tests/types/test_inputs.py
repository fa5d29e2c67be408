"""Datums and chunks: copies, refused values and encoded forms."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from tinkex_sync import types
from tinkex_sync.protocol import json_wire
from tinkex_sync.types.inputs import known_length

PROMPT = types.ModelInput.from_ints([1])


def tensor(value, key="weights"):
    return types.Datum(loss_fn_inputs={key: value}, model_input=PROMPT).loss_fn_inputs[key]


def test_changing_a_list_after_use_changes_no_value_made_from_it() -> None:
    tokens, weights, chunks, labels = [1, 2], [0.5, 1.0], [types.EncodedTextChunk(tokens=[3])], {"a": "b"}
    chunk = types.EncodedTextChunk(tokens=tokens)
    prompt = types.ModelInput.from_ints(tokens)
    joined = types.ModelInput(chunks=chunks)
    data = types.TensorData(data=weights, dtype="float32")
    datum = types.Datum(model_input=prompt, loss_fn_inputs={"target_tokens": tokens, "weights": weights})
    params = types.SamplingParams(stop=tokens)
    session = types.CreateSessionRequest(tags=["x"], user_metadata=labels, sdk_version="1")
    for changed in (tokens, weights, chunks, labels):
        changed.clear()
    assert chunk.tokens == prompt.to_ints() == params.stop == [1, 2]
    assert joined.to_ints() == [3]
    assert data.data == [0.5, 1.0]
    assert {key: tensor.data for key, tensor in datum.loss_fn_inputs.items()} == {
        "target_tokens": [1, 2],
        "weights": [0.5, 1.0],
    }
    assert session.user_metadata == {"a": "b"}


def test_changing_what_a_value_returns_changes_no_other_value() -> None:
    prompt = types.ModelInput.from_ints([1, 2])
    prompt.to_ints().append(3)
    assert prompt.to_ints() == [1, 2]
    data = types.TensorData(data=[1.0], dtype="float32")
    data.tolist().append(2.0)
    assert data.data == [1.0]


def test_a_million_tokens_are_copied_in_milliseconds() -> None:
    tokens = list(range(1_000_000))
    began = time.process_time()
    types.EncodedTextChunk(tokens=tokens)
    assert time.process_time() - began < 0.2  # about 0.02 s; a Python loop over the elements takes seconds


def test_a_list_under_an_unknown_name_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="'mask'.*TensorData"):
        tensor([1.0], "mask")
    assert tensor(types.TensorData(data=[1.0], dtype="float32"), "mask").tolist() == [1.0]


@pytest.mark.parametrize("value", [None, 5, "12", [[None]], [None], ["x"], {1.0}, object()])
def test_values_that_are_not_lists_of_numbers_are_refused(value) -> None:
    with pytest.raises(ValueError, match=r"Datum\.loss_fn_inputs\.weights"):
        tensor(value)


def test_null_is_sent_only_if_none_was_passed() -> None:
    assert "shape" not in types.TensorData(data=[1], dtype="int64").to_wire()
    assert types.TensorData(data=[1], dtype="int64", shape=None).to_wire()["shape"] is None
    pointer = types.ImageAssetPointerChunk(format="png", location="l")
    assert pointer.to_wire() == {"format": "png", "location": "l"}


def test_an_array_of_tokens_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="tolist"):
        types.ModelInput.from_ints(np.array([1, 2]))
    assert types.ModelInput.from_ints([np.int64(1), 2.0, "3"]).to_ints() == [1, 2, 3]


def test_the_class_of_a_chunk_follows_from_its_keys() -> None:
    chunks = [{"tokens": [1]}, {"location": "l", "format": "png"}, {"data": "aGk=", "format": "png"}]
    read = types.ModelInput.from_wire({"chunks": chunks})
    assert read.to_wire() == {"chunks": chunks[:1] + [{"format": "png", "location": "l"}] + chunks[2:]}
    with pytest.raises(ValueError, match="exactly one"):
        types.ModelInput(chunks=[{"tokens": [1], "data": "aGk=", "format": "png"}])


def test_known_length_counts_an_image_without_expected_tokens_as_0() -> None:
    images = [types.ImageChunk(data=b"x", format="png", expected_tokens=count) for count in (5, None)]
    assert known_length(types.ModelInput(chunks=[*PROMPT.chunks, *images])) == 6


def test_length_needs_expected_tokens_and_to_ints_needs_text() -> None:
    image = types.ImageChunk(data=b"x", format="png", expected_tokens=5)
    assert PROMPT.append(image).append_int(3).length == 7
    with pytest.raises(ValueError, match="expected_tokens"):
        PROMPT.append(types.ImageChunk(data=b"x", format="png")).length  # noqa: B018
    with pytest.raises(ValueError, match="ImageChunk"):
        PROMPT.append(image).to_ints()


def test_neither_numpy_nor_torch_is_imported_for_lists() -> None:
    program = (
        "import sys; from tinkex_sync import types\nfrom tinkex_sync.protocol import json_wire\n"
        "d = types.Datum(model_input=types.ModelInput.from_ints([1]), loss_fn_inputs={'weights': [1.0]})\n"
        "batch = types.ForwardBackwardInput([d], 'cross_entropy')\n"
        "json_wire.encode_forward_backward('forward', batch, 'm', 1)\n"
        "assert d.loss_fn_inputs['weights'].tolist() == [1.0]\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    "given", [[[5, 6], [7, 8], [9, 10]], ([5, 6], (7, 8), np.array([9, 10])), np.array([[5, 6], [7, 8], [9, 10]])]
)
def test_k_targets_per_position_keep_their_shape_as_nested_lists_and_as_arrays(given) -> None:
    sent = json.loads(json_wire.encode(tensor(given, "target_tokens")))
    assert sent == {"data": [5, 6, 7, 8, 9, 10], "dtype": "int64", "shape": [3, 2]}


def test_nested_lists_of_unequal_rows_are_refused_with_the_row() -> None:
    with pytest.raises(ValueError, match=r"weights: rows of nested lists .* row 0 has \[2\], row 1 has \[1\]"):
        tensor([[1.0, 2.0], [3.0]])
    with pytest.raises(ValueError, match=r"row 1 has \[\]"):
        tensor([[1.0], 2.0])


def test_a_datum_takes_prompt_and_inputs_by_position() -> None:
    datum = types.Datum(PROMPT, {"target_tokens": [2]})
    assert datum == types.Datum(loss_fn_inputs={"target_tokens": [2]}, model_input=PROMPT)
    assert list(datum.to_wire()) == ["loss_fn_inputs", "model_input"]


@pytest.mark.parametrize("tokens", [[1, 2], (1, 2), np.array([1, 2]), "text"])
def test_a_datum_of_bare_tokens_is_refused_with_the_right_call(tokens) -> None:
    with pytest.raises(ValueError, match=r"Datum.model_input: .* use ModelInput.from_ints\(tokens\)"):
        types.Datum(model_input=tokens, loss_fn_inputs={"target_tokens": [2]})
