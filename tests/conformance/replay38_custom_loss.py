"""Replay of custom losses in protocol 0.38.0. Requires torch."""

from typing import Any, Callable, Dict, List, Optional

import pytest
from scripted_server import Answer, Request, bare_session

from tinkex_sync import TrainingClient, types
from tinkex_sync.protocol.protobuf_schema import message

from .registry import error_class, no_excuse, not_understood, only, replay38

#: A failing loss function ends only its own call; the client remains usable. (Row 1.)
POISONS_NOTHING = 1
LOGPROBS = [-0.5, -1.0, -2.0]
MODEL = "sess-1:train:0"
USUAL = "lambda d, l: (torch.cat(l).pow(2).mean(), {'custom': 1.5})"


def loss_of(words: str, torch: Any) -> Callable[..., Any]:
    def fails(data: Any, logprobs: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    if words == "as before" or words.startswith("lambda "):
        made: Callable[..., Any] = eval(USUAL if words == "as before" else words, {"torch": torch})
        return made
    if words.startswith("loss = sum; metrics "):
        metrics = eval(words.rpartition("metrics ")[2], {})
        return lambda data, logprobs: (torch.cat(logprobs).sum(), dict(metrics))
    if words == "raises ZeroDivisionError":
        return fails
    if words == "loss does not depend on the logprobs":
        return lambda data, logprobs: (torch.tensor(1.0), {})
    return not_understood(f"the loss {words!r}")


def datums(given: Any, requests: List[Dict[str, Any]]) -> List[types.Datum]:
    if isinstance(given, str):
        # The case describes its data in words. The first request contains them, with generated weights.
        forward = [one["fields"] for one in requests if one.get("fields", {}).get("forward_only")]
        given = [
            {
                "tokens": values(one["model_input"][0]["encoded_text"]["tokens"]),
                "target_tokens": values(one["loss_fn_inputs"]["target_tokens"]["dense"]),
            }
            for fields in forward
            for one in fields["data"]
        ]
    made = []
    for spec in given:
        inputs = {name: spec[name] for name in spec if name != "tokens"}
        made.append(types.Datum(model_input=types.ModelInput.from_ints(spec["tokens"]), loss_fn_inputs=inputs))
    return made


def values(blob: Dict[str, Any]) -> List[Any]:
    found: List[Any] = blob["$bytes"]["values"]
    return found


class Server:
    """Accepts operations and returns the results that the head of the file describes."""

    def __init__(self) -> None:
        self.results: Dict[str, Any] = {}
        self.parsed: List[Any] = []

    def forward_backward(self, request: Request) -> Answer:
        parsed = message("ForwardBackwardRequest")()
        parsed.ParseFromString(request.body)
        self.parsed.append(parsed)
        outputs = [
            {"logprobs": {"data": LOGPROBS[: len(datum.model_input[0].encoded_text.tokens) // 4], "dtype": "float32"}}
            for datum in parsed.data
        ]
        name = f"req-{parsed.seq_id}"
        self.results[name] = {
            "loss_fn_output_type": "cross_entropy",
            "loss_fn_outputs": outputs,
            "metrics": {"loss:sum": 9.0 if parsed.forward_only else 3.0, "clash:sum": 7.0},
        }
        return Answer(body={"request_id": name})

    def optim_step(self, request: Request) -> Answer:
        self.parsed.append(request.body)
        self.results["step"] = {"metrics": {}}
        return Answer(body={"request_id": "step"})

    def retrieve_future(self, request: Request) -> Answer:
        return Answer(body=self.results[request.body["request_id"]])


def tree(parsed: Any) -> Dict[str, Any]:
    """Return the fields of a request that the file describes, with tensors as numbers."""
    import struct

    def numbers(tensor: Any) -> List[Any]:
        code, width = ("q", 8) if tensor.dtype == 2 else ("f", 4)
        return list(struct.unpack(f"<{len(tensor.dense) // width}{code}", tensor.dense))

    return {
        "seq_id": parsed.seq_id,
        "model_id": parsed.model_id,
        "loss_fn": parsed.loss_fn,
        "forward_only": parsed.forward_only,
        "inputs": [{name: numbers(tensor) for name, tensor in one.loss_fn_inputs.items()} for one in parsed.data],
    }


def recorded_tree(fields: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "seq_id": fields["seq_id"],
        "model_id": fields["model_id"],
        "loss_fn": fields["loss_fn"],
        "forward_only": fields.get("forward_only", False),
        "inputs": [
            {name: values(tensor["dense"]) for name, tensor in one["loss_fn_inputs"].items()} for one in fields["data"]
        ],
    }


@replay38("custom_loss")
def custom_loss(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not in this environment")
    given = only(
        case["input"],
        *("data", "client_config", "loss_python", "forward_logprobs", "server_metrics", "then_optim_step"),
    )
    expected = only(case["expected"], "metrics", "n_outputs", "optim_step", "requests", "exception", "mro")
    no_excuse(row, POISONS_NOTHING)
    if given["forward_logprobs"] != "[-0.5,-1,-2][:n] per datum" or given["server_metrics"] != {
        "loss:sum": "9 forward, 3 backward",
        "clash:sum": 7.0,
    }:
        not_understood("other results of the server")
    loss, stage = loss_of(given["loss_python"], torch), Server()
    output: Any = None
    error: Optional[BaseException] = None
    with bare_session(protocol="0.38") as (server, session):
        session.negotiation.apply_config(types.ServerConfigResponse(**given["client_config"]))
        for name in ("forward_backward", "optim_step", "retrieve_future"):
            server.defaults[name] = getattr(stage, name)
        client = TrainingClient(session, MODEL)
        try:
            output = client.forward_backward_custom(
                datums(given["data"], expected["requests"]), loss, backend="torch", timeout=30.0
            )
        except Exception as caught:
            error = caught
        if given["then_optim_step"] and expected["requests"]:
            client.optim_step(types.AdamParams(), timeout=30.0)
    sent = stage.parsed
    if row == POISONS_NOTHING:
        # The forward request was sent before the loss failed. The following optimizer step is an ordinary request.
        assert not isinstance(sent[-1], type(sent[0])) and sent[-1]["seq_id"] == len(sent)
        sent = sent[:-1]
    reference = expected["requests"]
    assert [("optim_step" if isinstance(one, dict) else "forward_backward") for one in sent] == [
        one["path"].rpartition("/")[2] for one in reference
    ]
    for ours, theirs in zip(sent, reference):
        if "fields" in theirs:
            assert tree(ours) == recorded_tree(theirs["fields"])
        else:
            assert ours["seq_id"] == theirs["seq_id"]
    if "exception" in expected:
        kinds = error_class(expected["exception"])
        # For a loss without a graph, our client raises the RuntimeError of torch.
        assert isinstance(error, (kinds, RuntimeError) if row == POISONS_NOTHING else kinds), repr(error)
        return
    assert error is None, repr(error)
    assert output.metrics == expected["metrics"]
    assert len(output.loss_fn_outputs) == expected["n_outputs"]
