"""Replays of optimizer parameters and tensors."""

import array
import json
import math
from typing import Any, Callable, Dict, List, Optional

import numpy
import pytest

from tinkex_sync import types
from tinkex_sync.errors import APIResponseValidationError
from tinkex_sync.protocol import json_wire as codec

from .registry import check_raised, no_excuse, not_understood, only, replay, revive, same

ADAM_DEFAULTS = {
    "learning_rate": 1e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-12,
    "weight_decay": 0.0,
    "grad_clip_norm": 0.0,
}
ADAM_RULES: Dict[str, Callable[[float], bool]] = {
    "learning_rate": lambda value: value >= 0,
    "beta1": lambda value: 0 <= value < 1,
    "beta2": lambda value: 0 <= value < 1,
    "eps": lambda value: value > 0,
    "weight_decay": lambda value: value >= 0,
    "grad_clip_norm": lambda value: value >= 0,
}


def respelled(content: bytes) -> str:
    """Return a body with its numbers in the notation of Python. Keys and their order are unchanged."""
    return json.dumps(json.loads(content), separators=(",", ":"), ensure_ascii=False)


def raised_by(action: Callable[[], Any]) -> Optional[BaseException]:
    try:
        action()
    except Exception as error:
        return error
    return None


def expect_raised(action: Callable[[], Any], expected: Dict[str, Any]) -> None:
    error = raised_by(action)
    assert error is not None, f"expected {expected['exception']}"
    check_raised(error, expected)


@replay("adam_params")
def adam_params(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = case["input"]
    expected = only(
        case["expected"], "attributes", "adam_params_json", "body_text", "body", "stage", "exception", "mro", "message"
    )
    no_excuse(row, 1, 11)
    if row == 11:
        numbers = {name: float(value) for name, value in given.items()}
        wrong = [n for n, value in numbers.items() if not (ADAM_RULES[n](value) and math.isfinite(value))]
        assert wrong, "row 11 requires a value out of range"
        with pytest.raises(ValueError) as caught:
            types.AdamParams(**given)
        assert any(name in str(caught.value) and repr(numbers[name]) in str(caught.value) for name in wrong)
        return
    if "exception" in expected:
        expect_raised(lambda: codec.encode(types.AdamParams(**given)), expected)
        return
    params = types.AdamParams(**given)
    for name, value in expected["attributes"].items():
        assert same(getattr(params, name), value), name
    sent = expected["adam_params_json"] if row is None else {**ADAM_DEFAULTS, **expected["adam_params_json"]}
    assert same(params.to_wire(), sent)
    recorded = expected["body"]
    request = types.OptimStepRequest(params, recorded["model_id"], recorded["seq_id"])
    assert same(request.to_wire(), {**recorded, "adam_params": sent})
    text = (
        expected["body_text"] if row is None else json.dumps({**recorded, "adam_params": sent}, separators=(",", ":"))
    )
    assert respelled(codec.encode(request)) == text


def plain(tensor: types.TensorData) -> Dict[str, Any]:
    """Return the wire form of a tensor, with its data as a list."""
    body = tensor.to_wire()
    data = body["data"]
    return {**body, "data": data.tolist() if hasattr(data, "tolist") else list(data)}


def make_value(spec: Dict[str, Any]) -> Any:
    """Return the loss input that a recorded specification describes.

    ``values`` is a list, nested or not, or one number for a scalar tensor. A list, a tuple or a scalar with a ``dtype``
    contains numpy scalars of that type.
    """
    only(spec, "from", "values", "value", "dtype", "kwargs")
    kind, values = spec["from"], spec["values"] if "values" in spec else spec.get("value")
    if kind in ("list", "tuple", "scalar", "numpy_scalar") and "dtype" in spec:
        values = numpy_scalars(values, spec["dtype"])
    if kind in ("list", "scalar", "numpy_scalar"):
        return values
    if kind == "tuple":
        return tuple(values)
    if kind in ("numpy", "numpy_T"):
        made = numpy.array(values, dtype=spec["dtype"])
        return made.T if kind == "numpy_T" else made
    if kind in ("torch", "torch_T", "torch_grad", "torch_scalar"):
        torch = pytest.importorskip("torch", reason="torch is not in this environment")
        tensor = torch.tensor(values, dtype=getattr(torch, spec["dtype"]), requires_grad=kind == "torch_grad")
        return tensor.T if kind == "torch_T" else tensor
    if kind == "model_input":
        return types.ModelInput.from_ints(values)
    if kind == "dict":
        return spec["value"]
    if kind == "tensor_data":
        return types.TensorData(**spec["kwargs"])
    return not_understood(f"a value from {kind!r}")


def numpy_scalars(values: Any, dtype: str) -> Any:
    """Return ``values`` with every number replaced by a numpy scalar."""
    if isinstance(values, list):
        return [numpy_scalars(value, dtype) for value in values]
    return numpy.dtype(dtype).type(values)


def single(value: float) -> float:
    return array.array("f", [value])[0]


def check_tensor(tensor: types.TensorData, expected: Dict[str, Any], singles: bool) -> None:
    """Assert the wire form of a tensor and its readings.

    Args:
        tensor: The tensor.
        expected: The recorded results.
        singles: Whether the source has float32 or less precision. Its values are sent in their shortest form and
            compared as float32.
    """
    reference = expected["json"]
    ours = plain(tensor)
    if singles:
        assert [single(x) for x in ours["data"]] == [single(x) for x in reference["data"]] or any(
            not math.isfinite(x) for x in reference["data"]
        )
        ours = {**ours, "data": [w if single(w) == single(o) else o for w, o in zip(reference["data"], ours["data"])]}
    assert same(ours, reference)
    assert json.dumps(ours, separators=(",", ":")) == expected.get("json_text", json.dumps(ours, separators=(",", ":")))
    datum = types.Datum(loss_fn_inputs={"x": tensor}, model_input=types.ModelInput.empty())
    finite = all(math.isfinite(x) for x in reference["data"])
    if finite:
        sent = json.loads(codec.encode(datum))["loss_fn_inputs"]["x"]
        if singles:
            sent["data"] = [w if single(w) == single(o) else o for w, o in zip(reference["data"], sent["data"])]
        assert same(sent, reference)
    else:
        with pytest.raises(ValueError, match=r"datum 0: .*'x'.*finite"):
            codec.encode_forward_backward("forward", types.ForwardBackwardInput([datum], "cross_entropy"), "m", 1)
    check_readings(tensor, expected)


def check_readings(tensor: types.TensorData, expected: Dict[str, Any]) -> None:
    if "tolist" in expected:
        assert same(tensor.tolist(), expected["tolist"])
        assert same(tensor.to_numpy().tolist(), expected["tolist"])
    if "numpy_dtype" in expected:
        assert str(tensor.to_numpy().dtype) == expected["numpy_dtype"]
    if "numpy_shape" in expected:
        assert list(tensor.to_numpy().shape) == expected["numpy_shape"]
    if "to_numpy" in expected:
        expect_raised(tensor.to_numpy, only(expected["to_numpy"], "exception", "mro", "message"))
        expect_raised(tensor.tolist, expected["to_numpy"])


TENSOR_KEYS = ("json", "json_text", "tolist", "numpy_dtype", "numpy_shape", "to_numpy")
REFUSAL_KEYS = ("stage", "exception", "mro", "message")


@replay("tensor_data")
def tensor_data(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "key", "value")
    expected = only(case["expected"], *TENSOR_KEYS, *REFUSAL_KEYS)
    no_excuse(row, 8, 9)
    key, spec = given["key"], given["value"]

    def make() -> types.TensorData:
        datum = types.Datum(loss_fn_inputs={key: make_value(spec)}, model_input=types.ModelInput.from_ints([1]))
        return datum.loss_fn_inputs[key]

    if row == 8:
        known = {name: value for name, value in spec["value"].items() if name in ("data", "dtype", "shape")}
        assert known != spec["value"], "row 8 requires an unknown key"
        assert make() == types.TensorData(**known)
    elif row == 9:
        check_row_9(key, spec, make)
    elif "exception" in expected:
        value = make_value(spec)  # The datum is rejected, not the value itself.
        expect_raised(
            lambda: types.Datum(loss_fn_inputs={key: value}, model_input=types.ModelInput.from_ints([1])), expected
        )
    else:
        check_tensor(make(), expected, spec.get("dtype") in ("float16", "bfloat16", "float32"))


def check_row_9(key: str, spec: Dict[str, Any], make: Callable[[], types.TensorData]) -> None:
    """Row 9: tuples, nested lists, unsigned and bool arrays are accepted.

    A list under an unknown key raises ValueError.
    """
    kind = spec["from"]
    if kind in ("list", "tuple") and key not in types.inputs.DTYPE_BY_KEY:
        with pytest.raises(ValueError, match="TensorData") as caught:
            make()
        assert repr(key) in str(caught.value)
    elif kind == "list":
        array = numpy.array(make_value(spec), dtype=types.inputs.DTYPE_BY_KEY[key])
        assert array.ndim > 1, "row 9 requires nested lists"
        assert plain(make()) == plain(types.TensorData.from_numpy(array))
    elif kind == "tuple":
        twin = {**spec, "from": "list"}
        error = raised_by(lambda: types.Datum(types.ModelInput.empty(), {key: make_value(twin)}))
        if error is not None:
            with pytest.raises(type(error)):
                make()
        else:
            assert plain(make()) == plain(
                types.Datum(types.ModelInput.empty(), {key: make_value(twin)}).loss_fn_inputs[key]
            )
    elif kind in ("numpy", "numpy_T") and numpy.dtype(spec["dtype"]).kind in "ub":
        source = make_value(spec)
        flat = [int(value) for value in source.flatten().tolist()]
        assert same(plain(make()), {"data": flat, "dtype": "int64", "shape": list(source.shape)})
        assert same(json.loads(codec.encode(make()))["data"], flat)
    else:
        not_understood(f"row 9 for {spec}")


@replay("tensor_decode")
def tensor_decode(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "json_text")
    decoded_keys = ("data", "data_element_types", "dtype", "shape", "tolist", "numpy_dtype", "numpy_shape", "to_numpy")
    torch_keys = ("torch_dtype", "torch_shape", "to_torch")
    expected = only(case["expected"], *decoded_keys, *torch_keys, *REFUSAL_KEYS)
    no_excuse(row, 8)
    if row == 8:
        check_row_8(given["json_text"])
    elif "exception" in expected:
        with pytest.raises(APIResponseValidationError) as caught:
            decode_tensor(given["json_text"])
        assert caught.value.path.startswith("loss_fn_outputs[0].x")
    else:
        tensor = decode_tensor(given["json_text"])
        assert same(list(tensor.data), expected["data"])
        assert sorted({type(value).__name__ for value in tensor.data}) == sorted(expected["data_element_types"])
        assert tensor.dtype == expected["dtype"]
        assert tensor.shape == expected["shape"]
        check_readings(tensor, expected)


def decode_tensor(text: str) -> types.TensorData:
    answer = '{"loss_fn_output_type":"t","loss_fn_outputs":[{"x":' + text + '}],"metrics":{}}'
    output = types.ForwardBackwardOutput.from_wire(codec.decode(answer.encode()))
    return output.loss_fn_outputs[0]["x"]


def check_row_8(text: str) -> None:
    """Row 8: unknown keys are ignored. A body that is not a JSON object raises APIResponseValidationError."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        known = {name: inner for name, inner in value.items() if name in ("data", "dtype", "shape")}
        assert known != value, "row 8 requires an unknown key"
        assert decode_tensor(text) == decode_tensor(json.dumps(known))
    else:
        with pytest.raises(APIResponseValidationError):
            decode_tensor(text)


def torch_cases() -> List[Any]:
    from .test_vectors import DOCUMENTS

    cases = DOCUMENTS.get("tensor_decode", {"cases": []})["cases"]
    return [pytest.param(revive(case), id=case["name"]) for case in cases if "data" in case["expected"]]
