"""Replay of training requests in protocol 0.38.0. The protobuf package decodes the output of our encoder.

The encoder receives the recorded sequence numbers and model id, which the client otherwise chooses.
"""

import base64
from typing import Any, Dict, List, Optional

import pytest

from tinkex_sync import types
from tinkex_sync.protocol import byte_estimates
from tinkex_sync.protocol.protobuf_schema import message
from tinkex_sync.protocol.protobuf_writer import encode_forward_backward
from tinkex_sync.training import chunking

from .registry import error_class, not_understood, only, replay38
from .replay_datums import make_tokens
from .replay_types import numpy_scalars

#: Rows of deviations38.json. Our types accept the same datums in both protocols, as in 0.7.0.
ACCEPTED, DENSE, NOT_BUILT, OTHER_ERROR = 1, 3, 4, 5


#: Default limits of one chunk: datums and bytes.
LIMITS = (1024, 5_000_000)


def loss_input(spec: Any) -> Any:
    """Return the loss input that a recorded specification describes: a plain list, or ``{"from": KIND, ...}``."""
    if isinstance(spec, (list, float, int)):
        return spec
    kind = spec["from"]
    if kind in ("tuple", "list", "scalar"):
        only(spec, "from", "values", "value", "dtype")
        values = spec["values"] if "values" in spec else spec["value"]
        values = numpy_scalars(values, spec["dtype"]) if "dtype" in spec else values
        return tuple(values) if kind == "tuple" else values
    if kind == "numpy":
        return array(only(spec, "from", "dtype", "values", "value", "order"))
    if kind == "torch":
        torch = pytest.importorskip("torch", reason="torch is not in this environment")
        only(spec, "from", "dtype", "values", "value", "order")
        values = spec["values"] if "values" in spec else spec["value"]
        tensor = torch.tensor(values, dtype=getattr(torch, spec["dtype"]))
        return tensor.T if is_transposed(spec) else tensor
    if kind == "TensorData":
        fields = {key: value for key, value in spec.items() if key != "from"}
        if isinstance(fields.get("data"), dict):
            data = fields["data"]
            fields["data"] = loss_input(data) if "from" in data else array(only(data, "dtype", "values"))
        return types.TensorData(**fields)
    return not_understood(f"a loss input from {kind!r}")


def is_transposed(spec: Dict[str, Any]) -> bool:
    if spec.get("order") not in (None, "transposed"):
        not_understood(f"order {spec['order']!r}")
    return spec.get("order") is not None


def array(spec: Dict[str, Any]) -> Any:
    """Return a numpy array; a number instead of a list gives a scalar array."""
    numpy = pytest.importorskip("numpy")
    made = numpy.array(spec["values"] if "values" in spec else spec["value"], dtype=spec["dtype"])
    return made.T if is_transposed(spec) else made


def chunk(spec: Dict[str, Any]) -> Any:
    if any(name.startswith("tokens") for name in spec):
        (name,) = (name for name in spec if name != "type")
        tokens = spec[name]
        made = loss_input(tokens) if isinstance(tokens, dict) else make_tokens(name, tokens)
        return types.EncodedTextChunk(tokens=made)
    if "image_b64" in spec:
        only(spec, "image_b64", "format", "expected_tokens", "type")
        rest = {key: value for key, value in spec.items() if key != "image_b64"}
        return types.ImageChunk(data=base64.b64decode(spec["image_b64"]), **rest)
    if "location" in spec:
        return types.ImageAssetPointerChunk(**only(spec, "location", "format", "expected_tokens", "type"))
    return not_understood(f"a chunk of {sorted(spec)}")


def datums(specs: List[Dict[str, Any]]) -> List[types.Datum]:
    made = []
    for spec in specs:
        only(spec, "chunks", "loss_fn_inputs")
        inputs = {key: loss_input(value) for key, value in spec.get("loss_fn_inputs", {}).items()}
        made.append(
            types.Datum(
                model_input=types.ModelInput(chunks=[chunk(one) for one in spec["chunks"]]), loss_fn_inputs=inputs
            )
        )
    return made


@replay38("fwdbwd_requests")
def requests(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    given = only(case["input"], "op", "data", "loss_fn", "loss_fn_config", "client_config")
    expected = only(case["expected"], "requests", "exception", "mro", "message")
    if given["op"] not in ("forward", "forward_backward", "Datum"):
        not_understood(f"op {given['op']!r}")
    if row == NOT_BUILT:
        unbuilt = [one for one in given["data"] if "model_input_spans" in one or "loss_fn_input_spans" in one]
        dmel = [one for spec in given["data"] for one in spec["chunks"] if "dmel_b64" in one]
        sparse = [value for spec in given["data"] for value in spec.get("loss_fn_inputs", {}).values()]
        sparse = [one for one in sparse if isinstance(one, dict) and one.get("from") == "torch_sparse"]
        assert unbuilt or dmel or sparse, "every part of the case has a type"
        return
    if row not in (None, ACCEPTED, DENSE, OTHER_ERROR):
        not_understood(f"row {row}")
    if row == OTHER_ERROR or ("exception" in expected and row is None):
        with pytest.raises(ValueError if row else error_class(expected["exception"])):
            encoded(given, [])
        return
    if row == ACCEPTED:
        assert "exception" in expected, "no exception is recorded"
        encoded(given, [])
        return
    if "requests" not in expected or "exception" in expected:
        not_understood(f"expected {sorted(expected)}")
    kind = message("ForwardBackwardRequest")
    bodies = [one["body"]["$protobuf"]["b64"] for one in expected["requests"]]
    recorded = [kind.FromString(base64.b64decode(body)) for body in bodies]
    ours = [kind.FromString(body) for body in encoded(given, recorded)]
    if row == DENSE:
        assert any(tensor.HasField("sparse_csr") for tensor in tensors(recorded))
        assert all(tensor.HasField("dense") for tensor in tensors(ours))
        return
    assert ours == recorded


def tensors(requests: List[Any]) -> List[Any]:
    return [tensor for one in requests for datum in one.data for tensor in datum.loss_fn_inputs.values()]


def encoded(given: Dict[str, Any], recorded: List[Any]) -> List[bytes]:
    """Return the request bodies of a case, with the model id and the numbers of the recorded requests.

    The limits of ``client_config`` divide the batch into chunks, as in the training client.
    """
    data = datums(given["data"])
    names = ("fwdbwd_max_chunk_len", "fwdbwd_max_chunk_bytes_count")
    limits = [given.get("client_config", {}).get(name, default) for name, default in zip(names, LIMITS)]
    planned = list(chunking.plan(map(byte_estimates.protobuf_datum_bytes, data), *limits))
    assert not recorded or len(planned) == len(recorded)
    bodies = []
    for place, boundary in enumerate(planned):
        one = recorded[place] if recorded else None
        bodies.append(
            encode_forward_backward(
                data[boundary.start : boundary.stop],
                given.get("loss_fn", "cross_entropy"),
                given.get("loss_fn_config"),
                one.model_id if one else "m",
                one.seq_id if one else place + 1,
                forward_only=given["op"] == "forward",
                first_index=boundary.start,
            )
        )
    return bodies
