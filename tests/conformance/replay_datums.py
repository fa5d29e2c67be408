"""Replay of datums, their chunks, and checkpoint paths."""

import base64
import json
import operator
from typing import Any, Callable, Dict, List, Optional

import numpy

from tinkex_sync import types
from tinkex_sync.protocol import json_wire as codec

from .registry import no_excuse, not_understood, only, replay, same
from .replay_types import expect_raised, make_value, numpy_scalars


def make_tokens(name: str, values: Any) -> Any:
    """Return the tokens of a text chunk.

    Args:
        name: "tokens", "tokens_tuple", "tokens_numpy_DTYPE", or "tokens_list_numpy_DTYPE" (or "tuple" for "list")
            for a list of numpy integers.
        values: The tokens as a list, or a specification as for a loss input (``{"from": "numpy", ...}``).
    """
    if isinstance(values, dict):
        return make_value(values)
    *words, last = name.split("_")
    if last in ("tokens", "list"):
        return list(values)
    if last == "tuple":
        return tuple(values)
    words = [word for word in words[1:] if word not in ("of", "scalars", "ints", "integers")]
    if words == ["numpy"]:
        return numpy.array(values, dtype=last)
    if sorted(words) in (["list", "numpy"], ["numpy", "tuple"]):
        scalars = numpy_scalars(values, last)
        return tuple(scalars) if "tuple" in words else scalars
    return not_understood(f"{name!r} in a chunk")


def make_chunk(spec: Dict[str, Any]) -> Any:
    data = {
        "image_data_string": lambda value: value,
        "image_bytes_b64": base64.b64decode,
        "image_bytes_hex": bytes.fromhex,
    }
    rest = {}
    fields: List[str] = []
    for name, value in spec.items():
        if name in data:
            rest["data"] = data[name](value)
            fields.append("image")
        elif name.startswith("tokens"):
            rest["tokens"] = make_tokens(name, value)
            fields.append("text")
        elif name in ("format", "expected_tokens", "type", "location"):
            rest[name] = value
            fields += ["pointer"] if name == "location" else []
        else:
            not_understood(f"{name!r} in a chunk")
    kinds = {"image": types.ImageChunk, "text": types.EncodedTextChunk, "pointer": types.ImageAssetPointerChunk}
    if len(fields) != 1:
        not_understood(f"a chunk of {sorted(spec)}")
    return kinds[fields[0]](**rest)


def make_input(spec: Dict[str, Any]) -> types.ModelInput:
    only(spec, "from_ints", "empty", "append_int", "chunks")
    if "chunks" in spec:
        made = types.ModelInput(chunks=[make_chunk(chunk) for chunk in spec["chunks"]])
    else:
        made = types.ModelInput.empty() if spec.get("empty") else types.ModelInput.from_ints(spec["from_ints"])
    for token in spec.get("append_int", []):
        made = made.append_int(token)
    return made


def make_datum(spec: Dict[str, Any]) -> types.Datum:
    only(spec, "from_ints", "empty", "append_int", "chunks", "model_input", "loss_fn_inputs")
    prompt = {name: value for name, value in spec.items() if name not in ("loss_fn_inputs", "model_input")}
    inputs = {}
    if "loss_fn_inputs" in spec:
        values = spec["loss_fn_inputs"].items()
        inputs["loss_fn_inputs"] = {
            key: make_value(value) if isinstance(value, dict) and "from" in value else value for key, value in values
        }
    return types.Datum(model_input=make_input(spec.get("model_input", prompt)), **inputs)


def subject(given: Dict[str, Any]) -> Callable[[], Any]:
    """Return a function that constructs the subject of a case."""
    only(given, "model_input", "chunks", "chunks_as_dicts", "datum", "tinker_path", "property")
    if "property" in given:
        if given["property"] == "assign chunks":
            return lambda: setattr(types.ModelInput.from_ints([1]), "chunks", [])
        read = {"length": operator.attrgetter("length"), "to_ints": operator.methodcaller("to_ints")}
        if given["property"] not in read:
            not_understood(f"property {given['property']!r}")
        return lambda: read[given["property"]](make_input({"chunks": given["chunks"]}))
    makers: Dict[str, Callable[[Any], Any]] = {
        "model_input": make_input,
        "chunks": lambda chunks: make_input({"chunks": chunks}),
        "chunks_as_dicts": lambda chunks: types.ModelInput(chunks=chunks),
        "datum": make_datum,
        "tinker_path": types.ParsedCheckpointTinkerPath.from_tinker_path,
    }
    (name, value) = next(iter(given.items()))
    if len(given) != 1:
        not_understood(f"a case of {sorted(given)}")
    return lambda: makers[name](value)


@replay("datum")
def datum(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    expected = only(case["expected"], "json", "value", "exception", "mro", "message")
    no_excuse(row, 1, 8)
    make = subject(case["input"])
    if row == 8:
        chunks = case["input"].get("chunks_as_dicts")
        if chunks is None:
            not_understood("row 8 for a case without dicts")
        fields = ("tokens", "data", "format", "expected_tokens", "location", "type")
        known = [{name: value for name, value in chunk.items() if name in fields} for chunk in chunks]
        assert known != chunks, "row 8 requires an unknown key"
        assert make() == types.ModelInput(chunks=known)
    elif "exception" in expected:
        expect_raised(make, expected)
    elif "value" in expected:
        assert same(make(), expected["value"])
    else:
        ours = json.loads(codec.encode(make()))
        if row == 1:
            assert same(without(ours, None), without(without(expected["json"], "type"), None))
            assert same(ours, without(ours, "type"))
        else:
            assert same(ours, expected["json"])


def without(value: Any, dropped: Optional[str]) -> Any:
    """Return ``value`` without the key ``dropped``, at every depth; for None, without keys whose value is null."""
    if isinstance(value, dict):
        kept = {
            key: inner for key, inner in value.items() if (inner is not None if dropped is None else key != dropped)
        }
        return {key: without(inner, dropped) for key, inner in kept.items()}
    return [without(inner, dropped) for inner in value] if isinstance(value, list) else value
