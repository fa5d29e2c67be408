"""Rules that find the row which excuses a case of protocol 0.38.0, from the content of the case.

``deviations38.json`` lists the recorded cases. These rules apply to cases of the same form that it does not list. A
test compares both, so that no rule excuses more cases than the list.
"""

import math
from typing import Any, Callable, Dict, List, Optional

Case = Dict[str, Any]


def _inputs(case: Case) -> List[Any]:
    return [value for datum in case["input"]["data"] for value in datum.get("loss_fn_inputs", {}).values()]


def _from(value: Any) -> str:
    return value["from"] if isinstance(value, dict) else ""


def _training_requests(case: Case) -> Optional[int]:
    data, inputs = case["input"]["data"], _inputs(case)
    if any("model_input_spans" in one or "loss_fn_input_spans" in one for one in data):
        return 4
    if any("dmel_b64" in chunk for one in data for chunk in one["chunks"]):
        return 4
    if any(_from(value) == "torch_sparse" for value in inputs):
        return 4
    raised = case["expected"].get("exception")
    unsigned = any(_from(value) == "numpy" and value["dtype"].startswith("u") for value in inputs)
    if raised and (unsigned or any(_from(value) == "tuple" for value in inputs)):
        return 1
    if raised == "KeyError" or any(_from(value) == "scalar" for value in inputs):
        return 5
    sent = [one["body"]["$protobuf"]["fields"] for one in case["expected"].get("requests", [])]
    tensors = [tensor for body in sent for one in body["data"] for tensor in one.get("loss_fn_inputs", {}).values()]
    sparse = any("sparse_csr" in tensor for tensor in tensors)
    return 3 if sparse and any(_from(value) == "torch" for value in inputs) else None


def _metrics(case: Case) -> Optional[int]:
    return 1 if "exception" in case["expected"] else None


def _futures(case: Case) -> Optional[int]:
    answers = case["input"]["server"]
    if answers[-1]["status"] == 425:
        return 2
    refused = case["expected"].get("exception") == "ValueError" and answers[-1]["status"] == 200
    packed = case["input"]["expected_type"] in ("ForwardBackwardOutput", "SampleResponse")
    whole = isinstance(answers[-1]["body"], dict) and {"loss_fn_outputs", "sequences"} & set(answers[-1]["body"])
    return 1 if refused and packed and whole else None


def _dispatch(case: Case) -> Optional[int]:
    silent = case["input"]["client_config"].get("parallel_fwdbwd_chunks") is None
    return 1 if silent and len(case["expected"]["arrivals"]) > 1 and case["input"]["datums"] > 1 else None


def _sampling(case: Case) -> Optional[int]:
    numbers = [str(one["seq_id"]) for one in case["expected"]["asample"]]
    if case["input"]["client_config"].get("sample_no_retries") and isinstance(case["expected"].get("after"), dict):
        return 4
    # Cases of clones repeat numbers because each clone counts for itself; they have no scripted server.
    return 3 if len(set(numbers)) < len(numbers) and case["input"]["server"] else None


def _queue_state(case: Case) -> Optional[int]:
    return 1 if case["input"]["observer"] == "training" else None


def _chunking(case: Case) -> Optional[int]:
    chunks = [chunk for datum in case["input"]["datums"] for chunk in datum.get("chunks", [])]
    return 1 if any(chunk["kind"] == "dmel" for chunk in chunks) else None


def _custom_loss(case: Case) -> Optional[int]:
    return 1 if isinstance(case["expected"].get("optim_step"), dict) else None


def _requests(case: Case) -> Optional[int]:
    if case["expected"].get("exception") == "AssertionError":
        return 2
    adam = case["input"].get("args", {}).get("adam", {})
    return 1 if any(isinstance(value, float) and not math.isfinite(value) for value in adam.values()) else None


_RULES: Dict[str, Callable[[Case], Optional[int]]] = {
    "fwdbwd_requests": _training_requests,
    "metrics_reduction": _metrics,
    "futures": _futures,
    "fwdbwd_dispatch": _dispatch,
    "lost_turn": lambda case: 2,
    "sampling_dispatch": _sampling,
    "queue_state": _queue_state,
    "chunking": _chunking,
    "custom_loss": _custom_loss,
    "requests": _requests,
}


def excuse(stem: str, case: Case) -> Optional[int]:
    """Return the row that excuses a prepared case, or None if its recorded results are asserted."""
    rule = _RULES.get(stem)
    return None if rule is None else rule(case)
