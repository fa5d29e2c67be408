"""The servers of the field as data: what each does differently on the wire.

One row each for the columns of the survey of servers, and one for a server that neither recognises a request it has
seen nor asks for consecutive numbers.
"""

from dataclasses import dataclass
from typing import Callable

__all__ = ["COLUMNS", "HATCHERY", "NEITHER", "SKYRL", "TUFT", "Column"]


@dataclass(frozen=True)
class Column:
    """How one server behaves."""

    name: str
    #: "dedupe": same number and body give the same promise, another body 409. "dedupe_number": the body is
    #: not compared. "consecutive": exactly the next number, or 409. "none": numbers are ignored.
    numbers: str
    #: What a promise looks like, from its number, the model and the operation.
    promise: Callable[[int, str, str], dict]
    #: Status of a missing and of an unknown key; None: keys are not checked.
    missing_key: "int | None" = None
    unknown_key: "int | None" = None
    #: Statuses of success: new sessions, promises, the rest.
    created: int = 200
    accepted: int = 200
    #: What a poll is told whose result is not there yet.
    not_yet: "tuple" = (200, {"type": "try_again", "request_id": "?", "queue_state": "active"})
    #: "400", "cause" (404 with a detail) or "failed" (200 with an error in it).
    failure: str = "failed"
    #: The metrics of a forward_backward.
    metrics: "tuple" = (("loss:sum", 1.0),)
    #: Whether the connection is dropped after a 500.
    drops_after_500: bool = False
    #: Whether create_model is answered by ``{"user_metadata": null}`` with 422.
    refuses_null_metadata: bool = False
    #: Logprobs of the prompt have no entry for the first token.
    short_prompt_logprobs: bool = False
    #: Path of a saved checkpoint.
    path: str = "tinker://{model}/{kind}/{name}"


SKYRL = Column(
    name="SkyRL",
    numbers="dedupe",
    promise=lambda number, model, operation: {
        "future_id": number,
        "status": "pending",
        "request_id": str(number),
        **({"model_id": model} if operation == "create_model" else {}),
    },
    not_yet=(408, {"detail": "Timeout waiting for the result"}),
    failure="400",
    metrics=(),
    drops_after_500=True,
    short_prompt_logprobs=True,
    path="tinker://{model}/{name}",
)

TUFT = Column(
    name="TuFT",
    numbers="consecutive",
    promise=lambda number, model, operation: {"request_id": f"tuft-{number:08x}", "model_id": model},
    missing_key=401,
    unknown_key=403,
    created=201,
    accepted=202,
    failure="cause",
    drops_after_500=True,
)

HATCHERY = Column(
    name="Hatchery",
    numbers="dedupe_number",
    promise=lambda number, model, operation: {
        "request_id": f"req_{number}",
        "model_id": model,
        "operation": operation,
        "status": "queued",
    },
    missing_key=401,
    unknown_key=401,
    not_yet=(200, {"type": "try_again", "request_id": "?", "queue_state": "paused_capacity"}),
    metrics=(("loss:sum", 1.0), ("step", 3.0), ("learning_rate", 1e-4)),
    refuses_null_metadata=True,
    path="tinker://{model}/checkpoints/{name}",
)

NEITHER = Column(
    name="neither",
    numbers="none",
    promise=lambda number, model, operation: {"request_id": f"p{number}", "model_id": model},
)

COLUMNS = (SKYRL, TUFT, HATCHERY, NEITHER)
