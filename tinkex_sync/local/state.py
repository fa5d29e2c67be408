"""The parts of a running server, and the submission of training operations."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Tuple

from ..concurrency.clock import Clock
from .completions import Completions
from .engine import BASE_MODELS, CHAT_MODEL, EngineError
from .fault_gate import FaultGate
from .idempotency import digest
from .json_bodies import Body, JsonObject, RejectedRequest
from .models import Models, TrainedModel
from .options import ServerOptions
from .retention import Retention
from .runner import EncodeProtobuf, Runner
from .server_config import ServerConfig
from .server_futures import ServerFutures, StoredFuture
from .stats import Stats
from .store import Record, Store
from .tokenizer_folder import write_tokenizer_folder

__all__ = ["Handler", "ServerState", "accepted"]

#: Handles one operation: receives the body and its bytes, returns the JSON object of the response.
Handler = Callable[[Body, bytes], JsonObject]


def accepted(future: StoredFuture) -> JsonObject:
    """Return the response to an accepted operation."""
    return {"request_id": future.request_id, "model_id": future.model_id}


@dataclass(frozen=True)
class ServerState:
    """The parts of a running server, shared by all request handlers. Each part is thread-safe."""

    options: ServerOptions
    #: The address of the server for links. None: the address in the request, because the server listens on all.
    base_url: Optional[str]
    #: The ``tokenizer_id`` of base models. The others use bytes.
    tokenizer_ids: Mapping[str, str]
    clock: Clock
    stats: Stats
    gate: FaultGate
    store: Store
    models: Models
    retention: Retention
    futures: ServerFutures
    completions: Completions
    runner: Runner
    #: Set when the server closes.
    closing: threading.Event

    @classmethod
    def create(cls, options: ServerOptions, root: Path, base_url: Optional[str]) -> ServerState:
        """Create all parts, and load the records in the directory ``root``."""
        clock, stats, store = Clock(), Stats(), Store(root)
        gate = FaultGate(options.faults, clock)
        futures = ServerFutures(gate, stats, clock)
        chat = BASE_MODELS[CHAT_MODEL]
        # An absolute path, because the working directory of a client may be another one.
        tokenizer_folder = root.resolve() / "tokenizers" / "chat"
        write_tokenizer_folder(tokenizer_folder, chat.special_tokens, chat.context)
        models = Models(store, stats, options.models, ordered=options.config.orders_by_number)
        return cls(
            options=options,
            base_url=base_url,
            tokenizer_ids={CHAT_MODEL: str(tokenizer_folder)},
            clock=clock,
            stats=stats,
            gate=gate,
            store=store,
            models=models,
            retention=Retention(models, store, clock, options.session_lifetime),
            futures=futures,
            completions=Completions(clock),
            runner=Runner(futures, gate, (EngineError,)),
            closing=threading.Event(),
        )

    def close(self) -> None:
        """End injected delays and make all held polls return."""
        self.closing.set()
        self.futures.wake(close=True)
        self.completions.close()

    @property
    def config(self) -> ServerConfig:
        """The supported protocols and the values that depend on them."""
        return self.options.config

    def session_id(self, body: Body) -> str:
        """Return the ``session_id`` of ``body``.

        Raises:
            RejectedRequest: 422 if it is missing, 404 if there is no such session.
        """
        session_id = body.text("session_id")
        self.store.get("sessions", session_id)
        self.retention.touch(session_id)
        return session_id

    def model(self, body: Body) -> TrainedModel:
        """Return the loaded model with the ``model_id`` of ``body``.

        Raises:
            RejectedRequest: 422 if it is missing, 404 if the model does not exist or is not loaded.
        """
        model = self.models.loaded(body.text("model_id"))
        self.retention.touch(model.record["session_id"])
        return model

    def sampler(self, id: str) -> Record:
        """Return the record of a sampler.

        Raises:
            RejectedRequest: 404, there is no sampler of this id.
        """
        record = self.store.get("samplers", id)
        if record["session_id"] is not None:
            self.retention.touch(record["session_id"])
        return record

    def submit_training(
        self,
        model: TrainedModel,
        body: Body,
        data: bytes,
        work: Callable[[], Any],
        encode_protobuf: Optional[EncodeProtobuf] = None,
        admit: Callable[[], None] = lambda: None,
    ) -> Tuple[StoredFuture, bool]:
        """Submit an operation of a model. A repetition of an earlier request gets the same future.

        Args:
            model: The model.
            body: The body of the request, whose ``seq_id`` identifies repetitions.
            data: The bytes of the body.
            work: Computes the result.
            encode_protobuf: Encodes the protobuf form of the result.
            admit: Called for a new request. It rejects the request by raising.

        Returns:
            The future, and whether it is new.

        Raises:
            RejectedRequest: 409, the number was used for another body, or is not the next of a strict server.
        """
        number = body.optional_integer("seq_id")
        if not self.options.strictness.requires_consecutive_numbers:
            return self._submit(model, number, digest(data), work, encode_protobuf, admit)
        with model.numbering:
            if number != model.next_number:
                # TuFT returns 409 for a repetition too.
                raise RejectedRequest(
                    409, f"Sequence conflict: expected {model.next_number}, got {number}; the request was not accepted"
                )
            submitted = self._submit(model, number, digest(data), work, encode_protobuf, admit)
            model.next_number += 1
            return submitted

    def _submit(
        self,
        model: TrainedModel,
        number: Optional[int],
        body: bytes,
        work: Callable[[], Any],
        encode_protobuf: Optional[EncodeProtobuf],
        admit: Callable[[], None],
    ) -> Tuple[StoredFuture, bool]:
        model_id = model.record["id"]
        key = None if number is None else (f"model {model_id}", number)
        future, is_new = self.futures.accept("training", model_id, key, body, admit)
        if is_new:
            self.runner.train(model.queue, future, work, number, encode_protobuf)
        return future, is_new
