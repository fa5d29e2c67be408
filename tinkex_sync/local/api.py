"""The operations of the protocol: every POST that is not about a stored checkpoint."""

from __future__ import annotations

import uuid
from typing import Any, Callable, Dict, Optional, Tuple

from . import packed
from .announced import Announced
from .bodies import Body, Refusal
from .completions import Completions
from .extras import kept_until, labels, only_adam, scores_asked
from .faults import FaultGate
from .models import LOSSES, Models, TrainedModel
from .operations import Pack, Promise, Promises, Result, Runner, digest
from .stats import Stats
from .store import Store, check_name, now

__all__ = ["REPLAYED", "Answer", "Api"]

#: Operations whose answers are recorded by idempotency key. The others change nothing, or count.
REPLAYED = frozenset(
    {
        "asample",
        "copy_weights",
        "create_model",
        "create_sampling_session",
        "create_session",
        "forward",
        "forward_backward",
        "load_weights",
        "optim_step",
        "save_weights",
        "save_weights_external",
        "save_weights_for_sampler",
        "unload_model",
    }
)

#: A copy of a sampler numbers its samples from its own number times this.
NUMBERS_PER_COPY = 1_000_000_000

_ADAM = ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm")

Answer = Dict[str, Any]


class Api:
    """One method per operation: takes the body and its bytes, gives the answer's JSON object."""

    def __init__(
        self,
        store: Store,
        models: Models,
        promises: Promises,
        runner: Runner,
        gate: FaultGate,
        stats: Stats,
        announced: Announced,
        completions: Completions,
    ) -> None:
        self._store = store
        self._models = models
        self._promises = promises
        self._runner = runner
        self._gate = gate
        self._stats = stats
        self._announced = announced
        self._completions = completions
        self.operations: Dict[str, Callable[[Body, bytes], Answer]] = {
            "asample": self.asample,
            "create_model": self.create_model,
            "create_sampling_session": self.create_sampling_session,
            "create_session": self.create_session,
            "forward": lambda body, data: self.train("forward_input", body, data),
            "forward_backward": lambda body, data: self.train("forward_backward_input", body, data),
            "get_info": self.get_info,
            "load_weights": self.load_weights,
            "optim_step": self.optim_step,
            "save_weights": self.save_weights,
            "save_weights_for_sampler": self.save_weights_for_sampler,
            "session_heartbeat": self.session_heartbeat,
            "telemetry": self.telemetry,
            "unload_model": self.unload_model,
            "weights_info": self.weights_info,
        }

    # Sessions.

    def create_session(self, body: Body, _: bytes) -> Answer:
        tags = body.raw.get("tags", [])
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise body.bad("tags", f"must be a list of strings, not {tags!r}")
        session_id = uuid.uuid4().hex
        record = {
            "id": session_id,
            "tags": tags,
            "user_metadata": body.optional_inner("user_metadata").raw,
            "sdk_version": body.optional_text("sdk_version"),
            "project_id": body.optional_text("project_id"),
            "time": now(),
        }
        self._store.put("sessions", record)
        return {
            "session_id": session_id,
            "info_message": None,
            "warning_message": None,
            "error_message": None,
            "type": "create_session",
        }

    def session(self, body: Body) -> str:
        """The id of an existing session, which ``body`` has.

        Raises:
            Refusal: 422, it is missing, or 404, there is none of this id.
        """
        session_id = body.text("session_id")
        self._store.get("sessions", session_id)
        return session_id

    def session_heartbeat(self, body: Body, _: bytes) -> Answer:
        session_id = self.session(body)
        if "finished" in self._store.get("sessions", session_id):
            raise Refusal(410, f"session {session_id!r} is finished")
        self._stats.heartbeat(session_id)
        return {"type": "session_heartbeat"}

    def telemetry(self, body: Body, _: bytes) -> Answer:
        body.text("session_id")
        self._stats.add("telemetry_events", len(body.items("events")))
        return {"status": "accepted"}

    # Models.

    def create_model(self, body: Body, data: bytes) -> Answer:
        session_id = self.session(body)
        only_adam(body.optional_inner("optimizer_config"))
        model = self._models.plan(session_id, body)
        number = body.optional_integer("model_seq_id")
        return self._begin(model, number, data, lambda: self._models.make(model))

    def _create_from(self, body: Body, data: bytes) -> Answer:
        """A load_weights that makes its model."""
        session_id, number = self.session(body), body.integer("model_seq_id")
        only_adam(body.optional_inner("optimizer_config"))
        model = self._models.plan_from(f"{session_id}:train:{number}", session_id, body)
        path, optimizer = body.text("path"), body.flag("optimizer", False)
        return self._begin(model, number, data, lambda: self._models.make(model, path, optimizer))

    def _begin(
        self, model: TrainedModel, number: Optional[int], data: bytes, make: Callable[[], Any]
    ) -> Answer:
        key = None if number is None else (f"session {model.record['session_id']} model", number)
        promise, fresh = self._promises.accept("training", model.record["id"], key, digest(data))
        if fresh:
            self._models.add(model)
            self._runner.train(model.lane, promise, make)
        return _promised(promise)

    def get_info(self, body: Body, _: bytes) -> Answer:
        record = self._models.record(body.text("model_id"))
        return {
            "model_id": record["id"],
            "model_name": record["base_model"],
            "model_data": {
                "arch": "tinkex",
                "model_name": record["base_model"],
                # Every model here reads bytes; a Hugging Face tokenizer of an extra name would not fit.
                "tokenizer_id": "tinkex/tiny",
            },
            "is_lora": True,
            "lora_rank": record["lora_rank"],
            "type": "get_info",
            **self._optimizer(),
        }

    def _optimizer(self) -> Answer:
        return {"optimizer_config": {"type": "adamw"}} if self._announced.modern else {}

    def _train(
        self,
        model: TrainedModel,
        body: Body,
        data: bytes,
        work: Callable[[], Any],
        pack: Optional[Pack] = None,
    ) -> Tuple[Promise, bool]:
        """Have ``work`` done in the model's turn, once."""
        model_id = model.record["id"]
        number = body.optional_integer("seq_id")
        key = None if number is None else (f"model {model_id}", number)
        promise, fresh = self._promises.accept("training", model_id, key, digest(data))
        if fresh:
            self._runner.train(model.lane, promise, work, number, pack)
        return promise, fresh

    def in_turn(self, model: TrainedModel, body: Body, data: bytes, work: Callable[[], Any]) -> Answer:
        """A promise that ``work`` will be done in the model's turn, once."""
        return _promised(self._train(model, body, data, work)[0])

    def unload_model(self, body: Body, data: bytes) -> Answer:
        model = self._models.live(body.text("model_id"))
        return self.in_turn(model, body, data, lambda: self._models.unload(model))

    def train(self, field: str, body: Body, data: bytes) -> Answer:
        """forward and forward_backward, whose bodies differ in the name of ``field``."""
        model = self._models.live(body.text("model_id"))
        given = body.inner(field)
        datums, loss_fn = given.items("data"), given.text("loss_fn")
        if loss_fn not in LOSSES:
            raise given.bad("loss_fn", f"unknown loss {loss_fn!r}; there are {', '.join(LOSSES)}")
        for index, datum in enumerate(datums):
            inner = Body(datum, f"{field}.data[{index}]")
            inner.inner("loss_fn_inputs")
            inner.inner("model_input").items("chunks")
        config = given.optional_inner("loss_fn_config").raw or None
        backward = field == "forward_backward_input" and not body.flag("forward_only", False)
        promise, fresh = self._train(
            model,
            body,
            data,
            lambda: self._models.train(model, backward, datums, loss_fn, config),
            packed.output if self._announced.modern else None,
        )
        if fresh:
            self._stats.add("datums_received", len(datums))
            if backward:
                self._stats.chunk(model.record["id"], len(datums))
        return _promised(promise)

    def optim_step(self, body: Body, data: bytes) -> Answer:
        model = self._models.live(body.text("model_id"))
        only_adam(body.optional_inner("optimizer_params"))
        adam = body.optional_inner("adam_params")
        for name in _ADAM:
            value = adam.raw.get(name, 0.0)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise adam.bad(name, f"must be a number, not {value!r}")
        return self.in_turn(
            model, body, data, lambda: self._models.step(model, adam.raw, corrupt=self._gate.corrupt())
        )

    # Checkpoints.

    def save_weights(self, body: Body, data: bytes) -> Answer:
        model = self._models.live(body.text("model_id"))
        name = uuid.uuid4().hex if body.optional_text("path") is None else check_name(body.text("path"))
        about = self._about(body)
        # At level 0.7.0 a name is given to the newest.
        overwrite = not self._announced.modern or body.flag("overwrite", self._announced.old)
        return self.in_turn(
            model, body, data, lambda: self._models.save(model, "weights", name, about, overwrite)
        )

    def _about(self, body: Body) -> Answer:
        """What the record of a save has beside, as asked for in today's protocol."""
        return {"expires_at": kept_until(body), **labels(body)} if self._announced.modern else {}

    def save_weights_for_sampler(self, body: Body, data: bytes) -> Answer:
        model = self._models.live(body.text("model_id"))
        if body.optional_text("path") is not None:
            name, about = check_name(body.text("path")), self._about(body)
            return self.in_turn(
                model, body, data, lambda: self._models.save(model, "sampler_weights", name, about)
            )
        number = body.integer("sampling_session_seq_id")
        session_id = model.record["session_id"]
        sampler = {
            "id": _sampler_id(session_id, number),
            "session_id": session_id,
            "model_path": None,
            "run_id": model.record["id"],
            "time": now(),
        }
        return self.in_turn(model, body, data, lambda: self._models.save_sampler(model, sampler))

    def load_weights(self, body: Body, data: bytes) -> Answer:
        if self._announced.modern and body.optional_text("model_id") is None:
            return self._create_from(body, data)
        model = self._models.live(body.text("model_id"))
        path, optimizer = body.text("path"), body.flag("optimizer", False)
        return self.in_turn(model, body, data, lambda: self._models.load(model, path, optimizer))

    def weights_info(self, body: Body, _: bytes) -> Answer:
        record = self._models.checkpoint(body.text("tinker_path"))
        trained = {name: record["meta"][name] for name in ("train_unembed", "train_mlp", "train_attn")}
        return {
            "base_model": record["base_model"],
            "is_lora": True,
            "lora_rank": record["lora_rank"],
            **({**self._optimizer(), **trained} if self._announced.modern else {}),
        }

    # Sampling.

    def create_sampling_session(self, body: Body, data: bytes) -> Answer:
        session_id = self.session(body)
        sampler_id = _sampler_id(session_id, body.integer("sampling_session_seq_id"))
        given = digest(data).hex()
        try:
            known = self._store.get("samplers", sampler_id)
        except Refusal:
            self._store.put(
                "samplers", {**self._models.sampler(sampler_id, session_id, body), "request": given}
            )
        else:
            if known.get("request") != given:
                raise Refusal(409, f"sampling session {sampler_id!r} already exists and is another one")
            self._stats.add("dedupe_hits")
        return {"sampling_session_id": sampler_id, "type": "create_sampling_session"}

    def asample(self, body: Body, data: bytes) -> Answer:
        sampler_id = body.optional_text("sampling_session_id")
        sampler = (
            self._models.sampler("", None, body)
            if sampler_id is None
            else self._store.get("samplers", sampler_id)
        )
        prompt = body.inner("prompt").items("chunks")
        params = body.optional_inner("sampling_params")
        params.optional_integer("max_tokens", 1)
        num_samples = body.optional_integer("num_samples", 1) or 1
        asked: Answer = {
            "prompt_logprobs": body.flag("prompt_logprobs", False),
            "topk_prompt_logprobs": body.optional_integer("topk_prompt_logprobs") or 0,
        }
        if self._announced.modern:
            asked.update(scores_asked(body), literal_stop=True)
        number = body.optional_integer("seq_id")
        key = None if number is None or sampler_id is None else (f"sampling session {sampler_id}", number)
        promise, fresh = self._promises.accept("sampling", None, key, digest(data), self._admit)
        if fresh:
            self._stats.add("samples_accepted")
            if self._announced.modern and sampler_id is not None and number is not None:
                group = (sampler_id, number // NUMBERS_PER_COPY)
                promise.told = lambda result: self._completions.add(group, promise.request_id, result)
            self._runner.sample(
                promise,
                lambda: self._models.sample(sampler, prompt, num_samples, params.raw, asked),
                packed.response if self._announced.modern else None,
            )
        if self._announced.modern:
            ids = [f"{promise.request_id}-{index}" for index in range(num_samples)]
            return {**_promised(promise), "sample_sequence_ids": ids}
        return _promised(promise)

    def _admit(self) -> None:
        if self._gate.admit():
            return
        self._stats.add("samples_refused")
        faults = self._gate.faults
        extra = {"queue_state": faults.refusal_state, "queue_state_reason": faults.refusal_reason}
        raise Refusal(
            429,
            f"more than {faults.admit_per_second} samples a second",
            extra={name: value for name, value in extra.items() if value is not None},
            headers={} if faults.retry_after is None else {"Retry-After": f"{faults.retry_after:g}"},
        )

    def poll(
        self, request_id: str, hold: float, peek: Callable[[Result], bool]
    ) -> Tuple[int, Optional[Result], Answer]:
        """A retrieve_future: 200 with the result, or 408 with what to say instead."""
        promise = self._promises.get(request_id)
        self._stats.poll_started()
        try:
            result = self._promises.wait(promise, hold, peek)
        finally:
            self._stats.poll_ended()
        if result is not None:
            return 200, result, {}
        answer = {"type": "try_again", "request_id": request_id, "queue_state": "active"}
        if self._gate.paused(promise.kind):
            faults = self._gate.faults
            answer["queue_state"] = faults.pause_state
            if faults.pause_reason is not None:
                answer["queue_state_reason"] = faults.pause_reason
        return 408, None, answer


def _promised(promise: Promise) -> Answer:
    return {"request_id": promise.request_id, "model_id": promise.model_id}


def _sampler_id(session_id: str, number: int) -> str:
    return f"{session_id}:sample:{number}"
