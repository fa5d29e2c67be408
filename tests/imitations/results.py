"""What an imitation answers to polls."""

from . import canned
from .engine import Refused

__all__ = ["TRAINING", "Promised", "Results"]

#: Operations that carry a number of their model.
TRAINING = (
    "forward",
    "forward_backward",
    "optim_step",
    "save_weights",
    "load_weights",
    "save_weights_for_sampler",
    "save_weights_external",
)


class Promised:
    """An operation that was accepted."""

    def __init__(self, operation, number, body, model, ticket):
        self.operation, self.number, self.body, self.model = operation, number, body, model
        #: What the engine promised; None: the result is canned.
        self.ticket = ticket
        self.delivered = False
        self.sampler = None
        #: Why it was not carried out, where that is told so late; and whether it is to fail.
        self.conflict = None
        self.fails = False


class Results:
    """The part of an imitation that keeps its promises."""

    def operation(self, request_id):
        """What was promised under this id; None for one that is unknown."""
        with self.changed:
            found = self._promises.get(request_id)
        return found and found.operation

    def _wait_ready(self):
        return self.ready.wait(self.hold) and not self.stopping.is_set()

    def _poll(self, request_id):
        with self.changed:
            found = self._promises.get(request_id)
            self.polls += 1
            self.most_polls = max(self.most_polls, self.polls)
            self.changed.notify_all()
        try:
            if found is None or (self.column.once and found.delivered):
                raise Refused(404, f"no request {request_id}")
            if not self._wait_ready():
                return self._not_yet(request_id)
            status, answer = self._result(request_id, found)
            found.delivered = found.delivered or status != 408
            return status, answer
        finally:
            with self.changed:
                self.polls -= 1

    def _not_yet(self, request_id):
        status, body = self.column.not_yet
        if isinstance(body, dict) and "queue_state" in body:
            body = {**body, "request_id": request_id}
            with self.changed:
                queued = sum(not one.delivered for one in self._promises.values())
            if self.queued_limit is not None and queued > self.queued_limit:
                body["queue_state"] = "paused_capacity"
        return status, body

    def _result(self, request_id, found):
        operation, number = found.operation, found.number
        with self.changed:
            if operation in TRAINING and self.expires.get(number, 0):
                self.expires[number] -= 1
                raise Refused(410, "promise expired")
        if found.conflict is not None:
            raise Refused(409, found.conflict)
        if found.fails or (number in self.fails and operation in TRAINING and self.column.numbers != "late"):
            return self._failed({"error": "it failed", "category": "user"})
        if found.ticket is None:
            answer = canned.result(operation, found.body, found.model)
        else:
            status, answer = self.engine.poll(found.ticket, self.hold)
            if status == 408:
                return self._not_yet(request_id)
            if status != 200:
                raise Refused(status, answer["detail"])
        return self._failed(answer) if "error" in answer else (200, self._reshaped(found, answer))

    def _failed(self, answer):
        reason, ours = answer["error"], answer["category"] == "server"
        if self.column.failure == "failed":
            return 200, {"type": "request_failed", "error": reason, "category": "user_error"}
        status = 500 if ours else 400 if self.column.failure == "400" else 404
        raise Refused(status, reason)

    def _reshaped(self, found, answer):
        """A result as this server words it."""
        column, operation = self.column, found.operation
        if operation in ("forward", "forward_backward"):
            extra = {name: value for name, value in column.metrics if ":" not in name}
            answer["metrics"] = {**answer["metrics"], **extra} if column.metrics else {}
            if column.elementwise_loss:
                for output in answer["loss_fn_outputs"]:
                    output["elementwise_loss"] = output["logprobs"]
        elif operation == "asample" and column.short_prompt_logprobs and answer.get("prompt_logprobs"):
            answer["prompt_logprobs"] = answer["prompt_logprobs"][1:]
        elif operation in ("save_weights", "save_weights_for_sampler", "load_weights"):
            if answer.get("path") and operation != "load_weights":
                answer["path"] = self.shown(answer["path"])
            elif operation == "load_weights":
                answer["path"] = found.body["path"]
            if answer.get("sampling_session_id") and self.engine is not None:
                with self.changed:
                    if found.sampler is None:
                        self._samplers += 1
                        found.sampler = column.sampler(found.model, self._samplers)
                        self.samplers[found.sampler] = answer["sampling_session_id"]
                answer["sampling_session_id"] = found.sampler
        return answer
