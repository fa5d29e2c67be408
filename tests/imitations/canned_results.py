"""Results without a model. They are fast, and identify the request to which they belong."""

__all__ = ["result"]


def result(operation, body, model):
    """Return the result of an operation in the form of the protocol."""
    if operation == "create_model":
        return {"model_id": model, "type": "create_model"}
    if operation in ("forward", "forward_backward"):
        data = body[f"{operation}_input"]["data"]
        return {
            "loss_fn_output_type": "ArrayRecord",
            "loss_fn_outputs": [{"logprobs": {"data": [-1.0], "dtype": "float32", "shape": [1]}} for _ in data],
            "metrics": {"loss:sum": 1.0},
        }
    if operation == "optim_step":
        return {"metrics": None}
    if operation == "load_weights":
        return {"path": body["path"], "type": "load_weights"}
    if operation == "asample":
        tokens = [token for chunk in body["prompt"]["chunks"] for token in chunk["tokens"]]
        # The completion is the reversed prompt.
        sequence = {"stop_reason": "length", "tokens": tokens[::-1], "logprobs": [-1.0] * len(tokens)}
        return {
            "type": "sample",
            "sequences": [sequence] * body["num_samples"],
            "prompt_logprobs": [None] + [-1.0] * (len(tokens) - 1) if body.get("prompt_logprobs") else None,
        }
    if operation == "save_weights_for_sampler" and body.get("path") is None:
        return {"path": None, "sampling_session_id": f"s:{body['sampling_session_seq_id']}"}
    if operation == "save_weights_external":
        return {"path": f"tinker://{model}/external/{body['path']}"}
    kind = "weights" if operation == "save_weights" else "sampler_weights"
    return {"path": f"tinker://{model}/{kind}/{body.get('path')}"}
