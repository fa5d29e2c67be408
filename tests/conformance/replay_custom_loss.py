"""Replay of custom losses, which the cases contain as Python source. Requires torch."""

from typing import Any, Dict, List, Optional

import pytest
from scripted_server import Answer, bare_session

from tinkex_sync import TrainingClient
from tinkex_sync.errors import APIResponseValidationError

from .registry import error_class, no_excuse, not_understood, only, replay, same
from .replay_datums import make_datum

GIVEN = ("data", "forward_loss_fn_outputs", "forward_metrics", "backward_metrics", "loss_python")
ENDS = ("metrics", "loss_fn_outputs", "loss_fn_output_type", "exception", "message", "requests")


def scripted(given: Dict[str, Any], expected: Dict[str, Any]) -> List[Answer]:
    """Return the results of the forward and the backward pass."""
    return [
        Answer(body={"loss_fn_output_type": "cross_entropy", "loss_fn_outputs": outputs, "metrics": metrics})
        for outputs, metrics in (
            (given["forward_loss_fn_outputs"], given["forward_metrics"]),
            (expected.get("loss_fn_outputs", []), given["backward_metrics"]),
        )
    ]


def as_float32(value: Any) -> Any:
    """Return ``value`` with its floats rounded to float32, because our client sends the shortest form."""
    import numpy

    if isinstance(value, dict):
        return {key: as_float32(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_float32(inner) for inner in value]
    return float(numpy.float32(value)) if isinstance(value, float) else value


def unordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unordered(value[key]) for key in sorted(value)}
    return [unordered(inner) for inner in value] if isinstance(value, list) else value


@replay("custom_loss")
def custom_loss(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    torch = pytest.importorskip("torch", reason="torch is not in this environment")
    given, expected = only(case["input"], *GIVEN), only(case["expected"], *ENDS)
    no_excuse(row, 17)
    namespace: Dict[str, Any] = {"torch": torch}
    exec(given["loss_python"], namespace)
    first = expected["requests"][0]["body"]
    output: Any = None
    error: Optional[BaseException] = None
    with bare_session() as (server, session):
        server.script("forward", Answer(body={"request_id": "f"}))
        server.script("forward_backward", Answer(body={"request_id": "b"}))
        server.script("retrieve_future", *scripted(given, expected))
        client = TrainingClient(session, first["model_id"], first_seq_id=first["seq_id"])
        data = [make_datum(spec) for spec in given["data"]]
        try:
            output = client.forward_backward_custom(data, namespace["loss"], timeout=30.0)
        except Exception as caught:
            error = caught
        sent = [request for request in server.requests if request.operation != "retrieve_future"]
    if row == 17:
        received, sent_datums = len(given["forward_loss_fn_outputs"]), len(data)
        if received >= sent_datums:
            not_understood("row 17 for a case without missing outputs")
        assert isinstance(error, APIResponseValidationError), repr(error)
        assert f"{sent_datums} datums came back with {received} outputs" in str(error)
        assert [request.operation for request in sent] == ["forward"]
        return
    assert [request.path for request in sent] == [request["path"] for request in expected["requests"]]
    for ours, theirs in zip(sent, expected["requests"]):
        assert same(unordered(as_float32(ours.body)), unordered(as_float32(theirs["body"])))
    if "exception" in expected:
        assert type(error) is error_class(expected["exception"]), repr(error)
        assert expected["message"] in str(error)
        return
    assert error is None, repr(error)
    assert same(output.metrics, expected["metrics"])
    assert output.loss_fn_output_type == expected["loss_fn_output_type"]
    assert same(output.to_wire()["loss_fn_outputs"], expected["loss_fn_outputs"])
