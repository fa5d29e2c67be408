"""Encoded bodies, refused values, and decoding of responses."""

import json
import math
import pickle
import threading

import numpy as np
import pytest

from tinkex_sync import types
from tinkex_sync.errors import APIResponseValidationError
from tinkex_sync.protocol import json_wire as codec

NON_FINITE = [math.nan, math.inf, -math.inf]


def datum(**inputs):
    return types.Datum(loss_fn_inputs=inputs, model_input=types.ModelInput.from_ints([1, 2]))


def batch(data, **changes):
    loss = {name: changes.pop(name) for name in ("loss_fn", "loss_fn_config") if name in changes}
    call = {"operation": "forward_backward", "model_id": "model-1", "seq_id": 2, **changes}
    given = types.ForwardBackwardInput(data, **{"loss_fn": "cross_entropy", **loss})
    return codec.encode_forward_backward(batch=given, **call)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("kind", ["forward", "forward_backward"])
def test_a_batch_encoded_by_datum_equals_the_encoded_request(kind, count) -> None:
    data = [datum(target_tokens=[2, 3], weights=np.float32([0.1, 1.0]))] * count
    given = types.ForwardBackwardInput(data, "ppo", {"clip_high_threshold": 1})
    requests = {
        "forward": types.ForwardRequest(given, "m", 7),
        "forward_backward": types.ForwardBackwardRequest(given, "m", 7),
    }
    pieces = batch(
        data, operation=kind, loss_fn="ppo", loss_fn_config={"clip_high_threshold": 1}, model_id="m", seq_id=7
    )
    assert pieces == codec.encode(requests[kind])


def test_a_batch_is_encoded_as_the_official_sdk_encodes_it() -> None:
    assert batch([datum(target_tokens=[2, 3], weights=[0.0, 1.0])]) == (
        b'{"forward_backward_input":{"data":[{"loss_fn_inputs":{"target_tokens":{"data":[2,3],"dtype":"int64",'
        b'"shape":[2]},"weights":{"data":[0.0,1.0],"dtype":"float32","shape":[2]}},"model_input":{"chunks":'
        b'[{"tokens":[1,2]}]}}],"loss_fn":"cross_entropy","loss_fn_config":null},"model_id":"model-1","seq_id":2}'
    )


@pytest.mark.parametrize("bad", NON_FINITE, ids=repr)
@pytest.mark.parametrize(
    "make",
    [
        lambda bad: [0.0, bad],
        lambda bad: np.float32([0, bad]),
        lambda bad: np.float64([0, bad]),
        lambda bad: np.float16([0, bad]),
        lambda bad: types.TensorData(data=[0, bad], dtype="float32", shape=None),
    ],
)
def test_a_non_finite_number_is_refused_with_datum_key_and_element(make, bad) -> None:
    data = [datum(weights=[1.0]), datum(target_tokens=[1, 2], weights=make(bad))]
    with pytest.raises(ValueError) as caught:
        batch(data, first_index=1024)
    assert str(caught.value).startswith(f"datum 1025: loss_fn_inputs['weights'][1] is {bad!r};")
    with pytest.raises(ValueError, match=r"^datum 1: loss_fn_inputs\['weights'\]\[1\] is "):
        codec.check_finite(data)


def test_a_value_that_becomes_non_finite_after_its_datum_was_made_is_refused() -> None:
    data = [datum(weights=[0.0, 1.0])]
    data[0].loss_fn_inputs["weights"].data[0] = math.nan
    with pytest.raises(ValueError, match="datum 0"):
        batch(data)


def test_values_that_resemble_null_or_infinity_are_sent() -> None:
    pointer = types.ImageAssetPointerChunk(format="png", location="null", expected_tokens=None)
    large = types.TensorData(data=[1e308, 1e308], dtype="float32", shape=None)  # their sum is infinite
    huge = types.TensorData(data=[2**2000], dtype="int64")
    inputs = {"null": large, "huge": huge}
    odd = types.Datum(loss_fn_inputs=inputs, model_input=types.ModelInput(chunks=[pointer]))
    codec.check_finite([odd])
    sent = json.loads(batch([odd]))["forward_backward_input"]["data"][0]
    assert sent["loss_fn_inputs"]["null"] == {"data": [1e308, 1e308], "dtype": "float32", "shape": None}
    assert sent["loss_fn_inputs"]["huge"]["data"] == [2**2000]
    assert sent["model_input"]["chunks"] == [{"format": "png", "location": "null", "expected_tokens": None}]


@pytest.mark.parametrize("bad", NON_FINITE, ids=repr)
def test_a_non_finite_number_in_another_body_is_refused_with_its_place(bad) -> None:
    with pytest.raises(ValueError, match=r"^user_metadata\.a\[1\] is "):
        codec.encode({"user_metadata": {"a": [None, bad]}})
    with pytest.raises(ValueError, match=r"^sampling_params\.temperature is "):
        codec.encode({"sampling_params": types.SamplingParams(temperature=bad)})
    with pytest.raises(ValueError, match="clip"):
        batch([], loss_fn_config={"clip": bad})


def test_a_body_that_orjson_rejects_is_encoded_by_json() -> None:
    text = '{"é":1180591620717411303424,"3":"😀","p":{"offset":0,"limit":1,"total_count":2}}'
    assert codec.encode({"é": 2**70, 3: "😀", "p": types.Cursor(0, 1, 2)}) == text.encode()


@pytest.mark.parametrize(("body", "error"), [({"a": object()}, TypeError), ({"a": "\ud800"}, ValueError)])
def test_a_value_without_json_form_is_refused(body, error) -> None:
    with pytest.raises(error):
        codec.encode(body)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a":[1,2.5,"x",null,true]}', {"a": [1, 2.5, "x", None, True]}),
        (b"[NaN,-Infinity,1e999]", [math.nan, -math.inf, math.inf]),
        (b"null", None),
    ],
)
def test_a_response_that_orjson_rejects_is_decoded_by_json(content, value) -> None:
    assert repr(codec.decode(content)) == repr(value)


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b'"\xff"', b"[1,]", b"[" * 100_000])
def test_a_response_that_is_not_json_raises_a_validation_error(content) -> None:
    with pytest.raises(APIResponseValidationError) as caught:
        codec.decode(content, "application/json; charset=utf-8", 201)
    assert caught.value.status_code == 201
    assert caught.value.body == content.decode("utf-8", "replace")
    assert "not JSON" in str(caught.value)


def test_the_content_type_is_in_the_error_only_if_the_body_is_not_json() -> None:
    assert codec.decode(b"{}", "text/plain") == {}
    with pytest.raises(APIResponseValidationError, match="received `text/html` instead"):
        codec.decode(b"<html>", "text/html")


def test_other_threads_run_while_a_large_batch_is_encoded() -> None:
    data = [datum(weights=np.random.default_rng(0).random(4000))] * 200
    turns, done = 0, threading.Event()

    def beat() -> None:
        nonlocal turns
        while not done.wait(0.0005):
            turns += 1

    thread = threading.Thread(target=beat)
    thread.start()
    batch(data)
    done.set()
    thread.join()
    assert turns >= 2


NESTED = {
    "lists": b"[" * 65 + b"]" * 65,
    "lists of objects": b'[{"a":' * 400 + b"0" + b"}]" * 400,
    "beyond orjson": b"[" * 5000 + b"]" * 5000,
    "beyond json": b"[NaN," * 200_000 + b"1" + b"]" * 200_000,
    "NaN inside": b"[NaN," * 300 + b"1" + b"]" * 300,
}


@pytest.mark.parametrize("content", NESTED.values(), ids=NESTED)
def test_a_deeply_nested_response_raises_an_error_that_pickles(content) -> None:
    with pytest.raises(APIResponseValidationError, match="nested more than 64 levels") as caught:
        codec.decode(content)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert str(copied) == str(caught.value) and copied.body == content[: 1 << 20].decode()


@pytest.mark.parametrize("levels", [1, 63])
def test_brackets_in_text_are_not_levels_of_nesting(levels) -> None:
    value = ["[" * 100, *({"a": "}"} for _ in range(100))]
    for _ in range(levels - 1):
        value = [value]
    assert codec.decode(json.dumps(value).encode()) == value


@pytest.mark.parametrize("content", [rb'{"id": "a\ud800b"}', b'{"id": "a\xed\xa0\x80b"}'])
def test_a_lone_surrogate_is_replaced_so_that_text_can_be_sent_and_printed(content) -> None:
    assert codec.decode(content) == {"id": "a?b"}


def test_an_error_keeps_at_most_a_mebibyte_of_a_response_that_is_not_json() -> None:
    with pytest.raises(APIResponseValidationError) as caught:
        codec.decode(b"x" * (3 << 20))
    assert len(caught.value.body) == 1 << 20
