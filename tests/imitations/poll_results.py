"""The responses of an imitation to polls."""

from . import canned_results
from .engine import ImitationError

__all__ = ["TRAINING", "AcceptedOperation", "Results"]

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


class AcceptedOperation:
    """An accepted operation."""

    def __init__(self, operation, number, body, model, engine_id):
        self.operation, self.number, self.body, self.model = operation, number, body, model
        #: The id of the engine's server future. None: the result is canned.
        self.engine_id = engine_id
        self.delivered = False
        self.sampler = None
        #: The reason of a conflict that a poll reports, and whether the operation must fail.
        self.conflict = None
        self.fails = False


class Results:
    """The part of an imitation that responds to polls."""

    def operation(self, request_id):
        """Return the name of the operation of a request id, or None if the id is unknown."""
        with self.changed:
            found = self.accepted_operations.get(request_id)
        return found and found.operation

    def _wait_ready(self):
        return self.ready.wait(self.hold) and not self.stopping.is_set()

    def _poll(self, request_id):
        with self.changed:
            found = self.accepted_operations.get(request_id)
            self.polls += 1
            self.most_polls = max(self.most_polls, self.polls)
            self.changed.notify_all()
        try:
            if found is None or (self.profile.once and found.delivered):
                raise ImitationError(404, f"no request {request_id}")
            if not self._wait_ready():
                return self._not_yet(request_id)
            status, response = self._result(request_id, found)
            found.delivered = found.delivered or status != 408
            return status, response
        finally:
            with self.changed:
                self.polls -= 1

    def _not_yet(self, request_id):
        status, body = self.profile.not_yet
        if isinstance(body, dict) and "queue_state" in body:
            body = {**body, "request_id": request_id}
            with self.changed:
                queued = sum(not one.delivered for one in self.accepted_operations.values())
            if self.queued_limit is not None and queued > self.queued_limit:
                body["queue_state"] = "paused_capacity"
        return status, body

    def _result(self, request_id, found):
        operation, number = found.operation, found.number
        with self.changed:
            if operation in TRAINING and self.expires.get(number, 0):
                self.expires[number] -= 1
                raise ImitationError(410, "promise expired")
        if found.conflict is not None:
            raise ImitationError(409, found.conflict)
        if found.fails or (number in self.fails and operation in TRAINING and self.profile.numbers != "late"):
            return self._failed({"error": "it failed", "category": "user"})
        if found.engine_id is None:
            response = canned_results.result(operation, found.body, found.model)
        else:
            status, response = self.engine.poll(found.engine_id, self.hold)
            if status == 408:
                return self._not_yet(request_id)
            if status != 200:
                raise ImitationError(status, response["detail"])
        return self._failed(response) if "error" in response else (200, self._in_own_form(found, response))

    def _failed(self, response):
        reason, is_server_error = response["error"], response["category"] == "server"
        if self.profile.failure == "failed":
            return 200, {"type": "request_failed", "error": reason, "category": "user_error"}
        status = 500 if is_server_error else 400 if self.profile.failure == "400" else 404
        raise ImitationError(status, reason)

    def _in_own_form(self, found, response):
        """Return a result in the form of this server."""
        profile, operation = self.profile, found.operation
        if operation in ("forward", "forward_backward"):
            extra = {name: value for name, value in profile.metrics if ":" not in name}
            response["metrics"] = {**response["metrics"], **extra} if profile.metrics else {}
            if profile.elementwise_loss:
                for output in response["loss_fn_outputs"]:
                    output["elementwise_loss"] = output["logprobs"]
        elif operation == "asample" and profile.short_prompt_logprobs and response.get("prompt_logprobs"):
            response["prompt_logprobs"] = response["prompt_logprobs"][1:]
        elif operation in ("save_weights", "save_weights_for_sampler", "load_weights"):
            if response.get("path") and operation != "load_weights":
                response["path"] = self.to_own_path(response["path"])
            elif operation == "load_weights":
                response["path"] = found.body["path"]
            if response.get("sampling_session_id") and self.engine is not None:
                with self.changed:
                    if found.sampler is None:
                        self._samplers += 1
                        found.sampler = profile.sampler(found.model, self._samplers)
                        self.samplers[found.sampler] = response["sampling_session_id"]
                response["sampling_session_id"] = found.sampler
        return response
