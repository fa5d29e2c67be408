"""Restart a corrupted training run from its last checkpoint, as a run of its own.

A run is corrupted if the server reports it (``GET /api/v1/training_runs/RUN``, field ``corrupted``). A run whose model
the server no longer has in memory ("not loaded") is treated alike. The client never restarts a run by itself: a script
calls :meth:`RestartPolicy.run` and sets the number of restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, TypeVar

from ..clients.service import ServiceClient
from ..clients.training import TrainingClient
from ..errors import ClosedError, DeadlineExceeded, TinkexError
from ..http.error_advice import what_is_lost
from ..logs import get_logger

__all__ = ["Restart", "RestartPolicy", "RunCorruptedError"]

T = TypeVar("T")

_log = get_logger(__name__)


class RunCorruptedError(TinkexError):
    """The server reports a training run as corrupted, and it cannot be restarted. ``__cause__`` is the first error.

    Args:
        run_id: The corrupted run.
        checkpoint: The ``tinker://`` path of the last checkpoint of this run or of an earlier one, or None.
    """

    def __init__(self, message: str, *, run_id: str, checkpoint: Optional[str] = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.checkpoint = checkpoint


@dataclass(frozen=True)
class Restart:
    """A restart that follows the return of ``on_restart``."""

    #: Number of the restart, from 1.
    attempt: int
    #: The corrupted run.
    run_id: str
    #: The ``tinker://`` path from which the next run is loaded, with its optimizer state.
    checkpoint: str
    #: The error of the training.
    error: BaseException


@dataclass(frozen=True)
class RestartPolicy:
    """How often a corrupted run is restarted from its last checkpoint. Immutable, so it is thread-safe.

    Args:
        max_restarts: The largest number of restarts.
        on_restart: Called before each restart. An exception that it raises ends the training.

    Raises:
        ValueError: ``max_restarts`` is not an integer of at least 0.
    """

    max_restarts: int = 3
    on_restart: Optional[Callable[[Restart], None]] = None

    def __post_init__(self) -> None:
        number = self.max_restarts
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"max_restarts must be an integer >= 0, got {number!r}")

    def run(
        self, service: ServiceClient, training: TrainingClient, train: Callable[[TrainingClient, Optional[str]], T]
    ) -> T:
        """Call ``train``, and call it again from the last checkpoint if the run is corrupted.

        Args:
            service: Creates the clients of the later runs.
            training: The client of the first run.
            train: Trains. Its arguments are the client, and the checkpoint at which it starts: None for the first run,
                then the ``tinker://`` path from which weights and optimizer state were loaded. It should call
                ``save_state`` regularly, with names that contain the step.

        Returns:
            The result of ``train``.

        Raises:
            RunCorruptedError: There is no checkpoint, or there were ``max_restarts`` restarts.
            Exception: What ``train`` raises if the run is not corrupted.
        """
        checkpoint: Optional[str] = None
        attempt = 0
        while True:
            try:
                return train(training, checkpoint)
            except (ClosedError, DeadlineExceeded):
                raise
            except TinkexError as error:
                last = _last_checkpoint(service, training.model_id, error)
                attempt += 1
                checkpoint = self._require_checkpoint(attempt, training.model_id, last or checkpoint, error)
                if self.on_restart is not None:
                    self.on_restart(Restart(attempt, training.model_id, checkpoint, error))
            training = service.create_training_client_from_state_with_optimizer(checkpoint)

    def _require_checkpoint(self, attempt: int, run_id: str, checkpoint: Optional[str], error: TinkexError) -> str:
        """Return the checkpoint of a restart, and log it.

        Raises:
            RunCorruptedError: There is no checkpoint, or there were ``max_restarts`` restarts.
        """
        if checkpoint is None:
            raise RunCorruptedError(
                f"run {run_id} is corrupted and has no checkpoint to restart from: {error}", run_id=run_id
            ) from error
        if attempt > self.max_restarts:
            raise RunCorruptedError(
                f"run {run_id} is corrupted after {self.max_restarts} restarts, the most that were allowed: {error}."
                f" The last checkpoint is {checkpoint}.",
                run_id=run_id,
                checkpoint=checkpoint,
            ) from error
        _log.warning(
            "Restarting corrupted run: run_id=%s restart=%d max_restarts=%d checkpoint=%s error=%s",
            run_id,
            attempt,
            self.max_restarts,
            checkpoint,
            error,
        )
        return checkpoint


def _last_checkpoint(service: ServiceClient, run_id: str, error: TinkexError) -> Optional[str]:
    """Return the last checkpoint of a corrupted run, or None.

    Raises:
        TinkexError: ``error``, if the run is not corrupted or its state cannot be requested.
    """
    try:
        run = service.create_rest_client().get_training_run(run_id)
    except TinkexError as request_error:
        _log.debug("State of run not available: run_id=%s error=%s", run_id, request_error)
        raise error from None
    if not run.corrupted and what_is_lost(error) != "model":
        raise error
    return None if run.last_checkpoint is None else run.last_checkpoint.tinker_path
