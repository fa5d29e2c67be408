"""Replays of today's training requests: what the encoder writes, read back by the protobuf package.

Headers, sequence numbers and the model's id are the client's: here the codec is asked for the recorded ones.
"""

import base64
from typing import Any, Dict, List, Optional

import pytest

from tinkex_sync import types

from .registry import not_understood, only, replay38

#: Rows of deviations38.json: what our types keep from 0.7.0, so that both protocols take the same datums.
TAKEN, REFUSED, DENSE, NOT_BUILT, OTHER_ERROR = 1, 2, 3, 4, 5


def loss_input(spec: Any) -> Any:
    if isinstance(spec, list):
        return spec
    kind = spec["from"]
    if kind == "tuple":
        return tuple(only(spec, "from", "values")["values"])
    if kind == "scalar":
        return only(spec, "from", "value")["value"]
    if kind == "numpy":
        return array(only(spec, "from", "dtype", "values", "order"))
    if kind == "torch":
        torch = pytest.importorskip("torch", reason="torch is not in this environment")
        only(spec, "from", "dtype", "values")
        return torch.tensor(spec["values"], dtype=getattr(torch, spec["dtype"]))
    if kind == "TensorData":
        fields = {key: value for key, value in spec.items() if key != "from"}
        if isinstance(fields.get("data"), dict):
            fields["data"] = array(only(fields["data"], "dtype", "values"))
        return types.TensorData(**fields)
    return not_understood(f"a loss input from {kind!r}")


def array(spec: Dict[str, Any]) -> Any:
    numpy = pytest.importorskip("numpy")
    made = numpy.array(spec["values"], dtype=spec["dtype"])
    order = spec.get("order")
    if order not in (None, "transposed"):
        not_understood(f"order {order!r}")
    return made.T if order else made


def chunk(spec: Dict[str, Any]) -> Any:
    if "tokens" in spec:
        return types.EncodedTextChunk(tokens=only(spec, "tokens")["tokens"])
    if "image_b64" in spec:
        only(spec, "image_b64", "format", "expected_tokens")
        rest = {key: value for key, value in spec.items() if key != "image_b64"}
        return types.ImageChunk(data=base64.b64decode(spec["image_b64"]), **rest)
    if "location" in spec:
        return types.ImageAssetPointerChunk(**only(spec, "location", "format", "expected_tokens"))
    return not_understood(f"a chunk of {sorted(spec)}")


def datums(specs: List[Dict[str, Any]]) -> List[types.Datum]:
    made = []
    for spec in specs:
        only(spec, "chunks", "loss_fn_inputs")
        inputs = {key: loss_input(value) for key, value in spec.get("loss_fn_inputs", {}).items()}
        made.append(
            types.Datum(
                model_input=types.ModelInput(chunks=[chunk(one) for one in spec["chunks"]]),
                loss_fn_inputs=inputs,
            )
        )
    return made


@replay38("fwdbwd_requests")
def requests(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    from tinkex_sync.protocol.protobuf_schema import message
    from tinkex_sync.protocol.protobuf_writer import encode_forward_backward

    given = only(case["input"], "op", "data", "loss_fn", "loss_fn_config")
    expected = only(case["expected"], "requests", "exception", "mro", "message")
    if given["op"] not in ("forward", "forward_backward", "Datum"):
        not_understood(f"op {given['op']!r}")
    if row == NOT_BUILT:
        unbuilt = [one for one in given["data"] if "model_input_spans" in one or "loss_fn_input_spans" in one]
        dmel = [one for spec in given["data"] for one in spec["chunks"] if "dmel_b64" in one]
        sparse = [value for spec in given["data"] for value in spec.get("loss_fn_inputs", {}).values()]
        sparse = [one for one in sparse if isinstance(one, dict) and one.get("from") == "torch_sparse"]
        assert unbuilt or dmel or sparse, "everything in it has a type here"
        return
    sent = expected.get("requests") or []
    if row not in (None, TAKEN, REFUSED, DENSE, OTHER_ERROR) or len(sent) > 1:
        not_understood(f"row {row}, {len(sent)} requests")
    body = sent[0]["body"]["$protobuf"] if sent else {}
    recorded = message("ForwardBackwardRequest").FromString(base64.b64decode(body.get("b64", "")))

    def write() -> Any:
        return encode_forward_backward(
            datums(given["data"]),
            given.get("loss_fn", "cross_entropy"),
            given.get("loss_fn_config"),
            recorded.model_id,
            recorded.seq_id,
            forward_only=given["op"] == "forward",
        )

    if row in (REFUSED, OTHER_ERROR) or ("exception" in expected and row is None):
        name = "ValueError" if row else expected["exception"]
        kinds = {"ValueError": ValueError, "TypeError": TypeError, "KeyError": KeyError}
        kinds["OverflowError"] = OverflowError  # type: ignore[assignment]
        with pytest.raises(kinds.get(name) or not_understood(f"exception {name}")):
            write()
        return
    ours = message("ForwardBackwardRequest").FromString(write())
    if row == TAKEN:
        assert "exception" in expected, "nothing was refused"
        return
    if "requests" not in expected or "exception" in expected:
        not_understood(f"expected {sorted(expected)}")
    if row == DENSE:
        assert any(
            one.HasField("sparse_csr") for datum in recorded.data for one in datum.loss_fn_inputs.values()
        )
        assert all(one.HasField("dense") for datum in ours.data for one in datum.loss_fn_inputs.values())
        return
    assert ours == recorded
