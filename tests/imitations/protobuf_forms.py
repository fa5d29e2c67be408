"""Conversion of protobuf requests to the form of their JSON, and of results to protobuf."""

from tinkex_sync.local import protobuf_bodies
from tinkex_sync.local.json_bodies import RejectedRequest, decompress

from .engine import ImitationError

__all__ = ["PROTOBUF", "encode_result", "decode_request"]

PROTOBUF = protobuf_bodies.PROTOBUF_TYPE
_ENCODERS = {
    "forward": protobuf_bodies.encode_training_result,
    "forward_backward": protobuf_bodies.encode_training_result,
    "asample": protobuf_bodies.encode_sample_result,
}


def decode_request(content, encoding):
    """Decode a protobuf request.

    Returns:
        The name of the operation, and the body in the form of its JSON.

    Raises:
        ImitationError: The request cannot be decoded.
    """
    try:
        body = protobuf_bodies.decode_forward_backward(decompress(content, encoding))
    except RejectedRequest as error:
        raise ImitationError(error.status, str(error)) from None
    operation = "forward" if body.pop("forward_only") else "forward_backward"
    fields = body.pop("forward_backward_input")
    for datum in fields["data"]:
        for chunk in datum["model_input"]["chunks"]:
            if "tokens" in chunk:
                chunk["tokens"] = chunk["tokens"].tolist()
        for tensor in datum["loss_fn_inputs"].values():
            tensor["data"] = tensor["data"].tolist()
    return operation, {f"{operation}_input": fields, **body}


def encode_result(operation, result):
    """Encode a result as protobuf. Return None if results of this operation have no protobuf form."""
    if operation not in _ENCODERS or not ("sequences" in result or "loss_fn_outputs" in result):
        return None
    return _ENCODERS[operation]({"prompt_logprobs": None, "topk_prompt_logprobs": None, **result})
