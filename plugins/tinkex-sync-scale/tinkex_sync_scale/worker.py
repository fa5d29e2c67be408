"""The work of one task: sample the rows of one partition. It runs in the worker processes."""

from __future__ import annotations

import pickle
import threading
from typing import Any, Dict, Iterator, List, Optional

from tinkex_sync import types
from tinkex_sync.tokenizers import load_tokenizer

from .files import OutputFile, output_path, process_name, read_rows
from .job import Job, JobError, Partition, PartitionResult
from .limit import SharedLimit, limit_of

__all__ = ["sample_partition"]


class _Worker:
    """The sampling client and the tokenizer of one job in this process. Thread-safe."""

    def __init__(self, job: Job) -> None:
        self.sampler: Any = pickle.loads(job.sampler)
        self._tokenizer_id = job.tokenizer
        self._lock = threading.Lock()
        self._tokenizer: Any = None  # guarded by _lock

    def tokenizer(self) -> Any:
        """Return the tokenizer, which is loaded at the first call."""
        with self._lock:
            if self._tokenizer is None:
                name = self._tokenizer_id
                self._tokenizer = self.sampler.get_tokenizer() if name is None else load_tokenizer(name)
            return self._tokenizer


_workers: Dict[bytes, _Worker] = {}  # guarded by _workers_lock
_workers_lock = threading.Lock()


def _worker_of(job: Job) -> _Worker:
    """Return the worker of this process, so that it unpickles the sampling client once."""
    with _workers_lock:
        if job.sampler not in _workers:
            _workers[job.sampler] = _Worker(job)
        return _workers[job.sampler]


def sample_partition(job: Job, partition: Partition) -> PartitionResult:
    """Sample every row of a partition and commit the output. Do nothing if it is committed.

    Raises:
        JobError: The partition cannot be read.
        TinkexError: A sample failed, and ``on_error`` is "raise".
    """
    if output_path(job.output, job.file_format, partition).exists():
        return PartitionResult(partition.index, 0, 0, 0.0, process_name())
    rows, schema = read_rows(partition, (job.prompt_column, job.id_column))
    output = OutputFile(job, partition)
    try:
        task = _Task(job, partition, rows)
        answers = task.run()
        output.commit(answers, schema)
    except BaseException:
        output.discard()
        raise
    failed = sum(1 for row in answers if row["error"] is not None)
    return PartitionResult(partition.index, len(rows), failed, task.waited, process_name())


class _Task:
    """One attempt to sample a partition. Used by one thread."""

    def __init__(self, job: Job, partition: Partition, rows: List[Dict[str, Any]]) -> None:
        self._job = job
        self._partition = partition
        self._rows = rows
        self._worker = _worker_of(job)
        self._limit: SharedLimit = limit_of(job.session_id, job.output)
        self._pause = threading.Event()  # never set: its wait is a sleep that tests can see
        self._decodes = job.tokenizer is not None or any(isinstance(row.get(job.prompt_column), str) for row in rows)
        self.waited = 0.0

    def run(self) -> List[Dict[str, Any]]:
        """Return the rows of the output in the order of the input."""
        job = self._job
        answers: List[Optional[Dict[str, Any]]] = [None] * len(self._rows)
        responses = self._worker.sampler.sample_many(
            self._prompts(),
            job.num_samples,
            types.SamplingParams(**job.params),
            max_in_flight=job.share,
            ordered=False,
            on_error=job.on_error,
            timeout=job.timeout,
        )
        for position, response in responses:
            answers[position] = self._answer(position, response)
        found = [one for one in answers if one is not None]
        if len(found) != len(self._rows):
            raise JobError(f"{self._partition.stem} has {len(found)} answers to {len(self._rows)} rows")
        return found

    def _prompts(self) -> Iterator[types.ModelInput]:
        for row in self._rows:
            wait = self._limit.take_turn()
            while wait:
                self._pause.wait(wait)
                self.waited += wait
                wait = self._limit.take_turn()
            yield self._encode(row.get(self._job.prompt_column))

    def _encode(self, prompt: Any) -> types.ModelInput:
        if isinstance(prompt, str):
            return types.ModelInput.from_ints(list(self._worker.tokenizer().encode(prompt)))
        # An empty or missing prompt is refused by sample_many, as the error of its row.
        return types.ModelInput.from_ints(list(prompt or ()))

    def _answer(self, position: int, response: Any) -> Dict[str, Any]:
        row = {"file": self._partition.path.replace("\\", "/").rpartition("/")[2]}
        answer: Dict[str, Any] = {**row, "index": self._partition.first_row + position}
        if self._job.id_column in self._rows[position]:
            answer["id"] = self._rows[position][self._job.id_column]
        if isinstance(response, BaseException):
            return {**answer, "sequences": None, "error": f"{type(response).__name__}: {response}"}
        return {**answer, "sequences": [self._sequence(one) for one in response.sequences], "error": None}

    def _sequence(self, sequence: Any) -> Dict[str, Any]:
        tokens = list(sequence.tokens)
        value: Dict[str, Any] = {"text": None, "tokens": tokens, "stop_reason": sequence.stop_reason}
        if self._decodes:
            tokenizer = self._worker.tokenizer()
            end = getattr(tokenizer, "eos_token_id", None)
            value["text"] = tokenizer.decode(tokens[:-1] if tokens[-1:] == [end] else tokens)
        if self._job.logprobs:
            value["logprobs"] = None if sequence.logprobs is None else list(sequence.logprobs)
        return value
