"""The protobuf side of an imitation: requests into the form their JSON has, results out of it."""

from tinkex_sync.local import protobuf_bodies
from tinkex_sync.local.json_bodies import ErrorResponse

from .engine import Refused

__all__ = ["PROTOBUF", "packed_result", "read"]

PROTOBUF = protobuf_bodies.PROTOBUF_TYPE
_WRITERS = {
    "forward": protobuf_bodies.encode_training_result,
    "forward_backward": protobuf_bodies.encode_training_result,
    "asample": protobuf_bodies.encode_sample_result,
}


def read(content, encoding):
    """Name of the operation and the body its JSON has.

    Raises:
        Refused: it is not what it says.
    """
    try:
        body = protobuf_bodies.decode_forward_backward(protobuf_bodies.decompress(content, encoding))
    except ErrorResponse as error:
        raise Refused(error.status, str(error)) from None
    operation = "forward" if body.pop("forward_only") else "forward_backward"
    given = body.pop("forward_backward_input")
    for datum in given["data"]:
        for chunk in datum["model_input"]["chunks"]:
            if "tokens" in chunk:
                chunk["tokens"] = chunk["tokens"].tolist()
        for tensor in datum["loss_fn_inputs"].values():
            tensor["data"] = tensor["data"].tolist()
    return operation, {f"{operation}_input": given, **body}


def packed_result(operation, answer):
    """A result as protobuf; None if results of this operation have no such form."""
    if operation not in _WRITERS or not ("sequences" in answer or "loss_fn_outputs" in answer):
        return None
    return _WRITERS[operation]({"prompt_logprobs": None, "topk_prompt_logprobs": None, **answer})
