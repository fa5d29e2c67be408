"""Execution of accepted operations: in order for each model, and on a few threads for samples."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Type

from ..logs import get_logger
from .fault_gate import FaultGate
from .json_bodies import encode_json
from .server_futures import OperationResult, ServerFutures, StoredFuture

__all__ = ["EncodeProtobuf", "ModelQueue", "Runner"]

_log = get_logger(__name__)

#: Encodes the result of an operation as protobuf.
EncodeProtobuf = Callable[[Any], bytes]


class ModelQueue:
    """Runs jobs one at a time, in order, on a thread that exists while there are jobs. Thread-safe.

    Invariant: ``_running`` is true exactly while a thread will read ``_jobs`` again. If the queue is ordered, jobs with
    numbers below ``_next_number`` are in ``_jobs`` or have run, and jobs in ``_early`` wait for a lower number.

    Args:
        name: The name of the thread.
        ordered: Run jobs in the order of their numbers, from 1. False: run them in the order of arrival.
    """

    def __init__(self, name: str, *, ordered: bool = False) -> None:
        self._name = name
        self._ordered = ordered
        self._lock = threading.Lock()
        self._jobs: Deque[Callable[[], None]] = deque()  # guarded by _lock
        self._running = False  # guarded by _lock
        self._next_number = 1  # guarded by _lock
        self._early: Dict[int, Callable[[], None]] = {}  # guarded by _lock

    def submit(self, job: Callable[[], None], number: Optional[int] = None) -> None:
        """Add a job.

        Args:
            job: A function that must not raise.
            number: The number of the job in an ordered queue. A job without a number, or with a number that has
                passed, runs in the order of arrival.
        """
        with self._lock:
            if self._ordered and number is not None and number >= self._next_number:
                self._early[number] = job
                while self._next_number in self._early:
                    self._jobs.append(self._early.pop(self._next_number))
                    self._next_number += 1
            else:
                self._jobs.append(job)
            start = bool(self._jobs) and not self._running
            self._running = self._running or start
        if start:
            threading.Thread(target=self._run, name=f"model-{self._name}", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running = False
                    return
                job = self._jobs.popleft()
            job()


class Runner:
    """Runs accepted operations and finishes their futures, also if an operation fails. Thread-safe.

    Args:
        futures: Receives the results.
        gate: Delays operations during a pause.
        user_errors: Exceptions that are the client's fault. Their text is returned with category "user".
        threads: The number of sampling threads.
    """

    def __init__(
        self, futures: ServerFutures, gate: FaultGate, user_errors: Tuple[Type[Exception], ...], threads: int = 2
    ) -> None:
        self._futures = futures
        self._gate = gate
        self._user_errors = user_errors
        self._samples: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._run_samples, name=f"sampler-{number}", daemon=True).start()

    def train(
        self,
        model_queue: ModelQueue,
        future: StoredFuture,
        work: Callable[[], Any],
        number: Optional[int] = None,
        encode_protobuf: Optional[EncodeProtobuf] = None,
    ) -> None:
        """Run ``work`` after the earlier operations of its model.

        Args:
            model_queue: The queue of the model.
            future: The future of the operation.
            work: Computes the result.
            number: The number of the operation, used if the queue is ordered.
            encode_protobuf: Encodes the protobuf form of the result.
        """
        model_queue.submit(lambda: self._run(future, work, encode_protobuf), number)

    def sample(
        self, future: StoredFuture, work: Callable[[], Any], encode_protobuf: Optional[EncodeProtobuf] = None
    ) -> None:
        """Run ``work`` on one of the sampling threads."""
        self._samples.put(lambda: self._run(future, work, encode_protobuf))

    def _run_samples(self) -> None:
        while True:
            self._samples.get()()

    def _run(self, future: StoredFuture, work: Callable[[], Any], encode_protobuf: Optional[EncodeProtobuf]) -> None:
        self._gate.wait_until_resumed(future.kind)
        if future.done:
            return  # The operation was cancelled.
        try:
            value = work()
            protobuf = None if encode_protobuf is None else encode_protobuf(value)
            # A copy, because orjson returns small results in blocks of 4 KiB, and results are kept.
            result = OperationResult(bytes(memoryview(encode_json(value))), protobuf)
        except self._user_errors as error:
            result = _failure(str(error), "user")
        except Exception as error:
            _log.exception("operation failed: request_id=%s", future.request_id)
            result = _failure(f"{type(error).__name__}: {error}", "server")
        self._gate.wait_until_resumed(future.kind)
        self._futures.finish(future, result)


def _failure(message: str, category: str) -> OperationResult:
    return OperationResult(encode_json({"error": message, "category": category}), failed=True)
