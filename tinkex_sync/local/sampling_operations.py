"""Operations of samplers and samples: create a sampler, submit a sample, poll and cancel."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from typing import Callable, DefaultDict, Dict, Iterator, Optional, Tuple

from . import protobuf_bodies
from .engine import MAX_SAMPLES
from .idempotency import digest
from .json_bodies import Body, JsonObject, RejectedRequest
from .optional_fields import parse_score_options
from .server_futures import OperationResult, StoredFuture
from .state import Handler, ServerState, accepted
from .store import Record

__all__ = ["SamplingOperations", "sampler_id"]

#: Copy N of a sampler numbers its samples from N times this number.
NUMBERS_PER_COPY = 1_000_000_000
#: Seconds for which a poll for completions is held if the request contains no timeout.
COMPLETIONS_HOLD = 30.0


def sampler_id(session_id: str, number: int) -> str:
    """Return the id of the sampler ``number`` of a session."""
    return f"{session_id}:sample:{number}"


class SamplingOperations:
    """The handlers of sampling operations. Thread-safe.

    Invariant: ``_copy_numbers`` issues each number of a sampler once.
    """

    def __init__(self, state: ServerState) -> None:
        self._state = state
        self._models = state.models
        self._futures = state.futures
        self._stats = state.stats
        self._supports_0_38 = state.config.supports_0_38
        self._strictness = state.options.strictness
        self._completions_hold = min(state.options.hold, COMPLETIONS_HOLD)
        self._lock = threading.Lock()
        self._copy_numbers: DefaultDict[str, Iterator[int]] = defaultdict(
            lambda: itertools.count(1)
        )  # guarded by _lock

    def handlers(self) -> Dict[str, Handler]:
        """Return the handlers of POST /api/v1/NAME by name."""
        handlers: Dict[str, Handler] = {
            "asample": self.asample,
            "create_sampling_session": self.create_sampling_session,
        }
        if self._supports_0_38:
            handlers.update(
                cancel_future=self.cancel_future,
                join_sampling_session=self.join_sampling_session,
                retrieve_futures=self.retrieve_futures,
            )
        return handlers

    # Samplers.

    def create_sampling_session(self, body: Body, data: bytes) -> JsonObject:
        """Create a sampler. POST /api/v1/create_sampling_session.

        Raises:
            RejectedRequest: 409, there is a sampler of this number that was created by another body.
        """
        session_id = self._state.session_id(body)
        id = sampler_id(session_id, body.integer("sampling_session_seq_id"))
        request = digest(data).hex()
        try:
            known = self._state.sampler(id)
        except RejectedRequest:
            record = {**self._models.sampler(id, session_id, body), "request": request}
            self._state.store.put("samplers", record)
        else:
            if known.get("request") != request:
                raise RejectedRequest(
                    409, f"sampling session {id!r} already exists and was created by another request body"
                )
            self._stats.add("dedupe_hits")
        return {"sampling_session_id": id, "type": "create_sampling_session"}

    def join_sampling_session(self, body: Body, _: bytes) -> JsonObject:
        """Return the next copy number of a sampler. POST /api/v1/join_sampling_session."""
        id = body.text("sampling_session_id")
        self._state.sampler(id)
        with self._lock:
            return {"client_counter": next(self._copy_numbers[id])}

    # Samples.

    def asample(self, body: Body, data: bytes) -> JsonObject:
        """Submit a sample. POST /api/v1/asample."""
        id = body.optional_text("sampling_session_id")
        sampler = self._models.sampler("", None, body) if id is None else self._state.sampler(id)
        self._strictness.check_sample(body)
        prompt = body.inner("prompt").non_empty_list("chunks")
        params = body.optional_inner("sampling_params")
        params.optional_integer("max_tokens", 1)
        num_samples = body.optional_integer("num_samples", 1) or 1
        options = self._score_options(body)
        number = body.optional_integer("seq_id")
        key = None if number is None or id is None else (f"sampling session {id}", number)
        future, is_new = self._futures.accept("sampling", None, key, digest(data), self._admit)
        if is_new:
            self._stats.add("samples_accepted")
            self._report_completion(future, sampler, number)
            self._state.runner.sample(
                future,
                lambda: self._strictness.sample_result(
                    self._models.sample(sampler, prompt, num_samples, params.raw, options)
                ),
                protobuf_bodies.encode_sample_result if self._supports_0_38 else None,
            )
        if not self._supports_0_38:
            return accepted(future)
        ids = [f"{future.request_id}-{index}" for index in range(min(num_samples, MAX_SAMPLES))]
        return {**accepted(future), "sample_sequence_ids": ids}

    def _score_options(self, body: Body) -> JsonObject:
        options: JsonObject = {
            "prompt_logprobs": body.flag("prompt_logprobs", False),
            "topk_prompt_logprobs": body.optional_integer("topk_prompt_logprobs") or 0,
        }
        if self._supports_0_38:
            options.update(parse_score_options(body), literal_stop=True)
        return options

    def _report_completion(self, future: StoredFuture, sampler: Record, number: Optional[int]) -> None:
        """Add the sample to the completions of its sampler copy when it is done."""
        if self._supports_0_38 and sampler["id"] and number is not None:
            copy = (sampler["id"], number // NUMBERS_PER_COPY)
            future.on_result = lambda result: self._state.completions.add(copy, future.request_id, result)

    def _admit(self) -> None:
        """Reject a sample if it exceeds the rate limit of the configured faults.

        Raises:
            RejectedRequest: 429, the limit is exceeded.
        """
        if self._state.gate.admit_sample():
            return
        self._stats.add("samples_refused")
        faults = self._state.gate.faults
        extra = {"queue_state": faults.refusal_state, "queue_state_reason": faults.refusal_reason}
        raise RejectedRequest(
            429,
            f"more than {faults.admit_per_second} samples per second",
            extra={name: value for name, value in extra.items() if value is not None},
            headers={} if faults.retry_after is None else {"Retry-After": f"{faults.retry_after:g}"},
        )

    # Results.

    def poll(
        self, request_id: str, hold: float, reports_only: Callable[[OperationResult], bool]
    ) -> Tuple[int, Optional[OperationResult], JsonObject]:
        """Wait for the result of an operation. POST /api/v1/retrieve_future.

        Args:
            request_id: The id of the future.
            hold: Seconds to wait at most.
            reports_only: See :meth:`ServerFutures.wait`.

        Returns:
            200, the result and an empty object; or 408, None and the body of the response.
        """
        future = self._futures.get(request_id)
        self._stats.poll_started()
        try:
            result = self._futures.wait(future, hold, reports_only)
        finally:
            self._stats.poll_ended()
        if result is not None:
            return 200, result, {}
        response = {"type": "try_again", "request_id": request_id, "queue_state": "active"}
        if self._state.gate.is_paused(future.kind):
            faults = self._state.gate.faults
            response["queue_state"] = faults.pause_state
            if faults.pause_reason is not None:
                response["queue_state_reason"] = faults.pause_reason
        return 408, None, response

    def retrieve_futures(self, body: Body, _: bytes) -> JsonObject:
        """Wait for completions of a sampler, and discard acknowledged results. POST /api/v1/retrieve_futures."""
        target = body.inner("target")
        id = target.text("sampling_session_id")
        self._state.sampler(id)
        copy = (id, target.optional_integer("cloned_sampler_id") or 0)
        discarded = sum(map(self._futures.discard, body.strings("retrieved_request_ids")))
        self._stats.add("samples_acknowledged", discarded)
        hold = body.raw.get("timeout")
        if hold is not None and (isinstance(hold, bool) or not isinstance(hold, (int, float)) or hold < 0):
            raise body.field_error("timeout", f"must be seconds, 0 or more, not {hold!r}")
        completions, cursor = self._state.completions.wait_since(
            copy,
            body.optional_integer("prev_cursor") or 0,
            self._completions_hold if hold is None else min(hold, self._completions_hold),
        )
        return {"completions": completions, "cursor": cursor}

    def cancel_future(self, body: Body, _: bytes) -> JsonObject:
        """Cancel a sample. POST /api/v1/cancel_future.

        Raises:
            RejectedRequest: 400 if the operation is not a sample, 404 if it does not exist.
        """
        future = self._futures.get(body.text("request_id"))
        if future.kind != "sampling":
            raise RejectedRequest(400, f"request {future.request_id!r} is not a sample; only samples can be cancelled")
        if self._futures.cancel(future):
            self._stats.add("samples_cancelled")
        return {}
