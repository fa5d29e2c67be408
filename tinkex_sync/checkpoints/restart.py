"""Going on with a training run that the server has lost: from its last checkpoint, in a run of its own.

A run is lost when the server reports it as corrupted (``GET /api/v1/training_runs/RUN``, field ``corrupted``). Nothing
restarts by itself: a script asks for it, and says how often.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Callable, Optional, TypeVar

from ..clients.service import ServiceClient
from ..clients.training import TrainingClient
from ..errors import ClosedError, DeadlineExceeded, TinkexError

__all__ = ["Restart", "RestartPolicy", "RunCorruptedError"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class RunCorruptedError(TinkexError):
    """The server reports a training run as corrupted, and it is not restarted (again); see ``__cause__``."""

    def __init__(self, message: str, *, run_id: str, checkpoint: Optional[str] = None) -> None:
        super().__init__(message)
        self.run_id = run_id
        #: The ``tinker://`` path of the last checkpoint there is, of this run or of one before it.
        self.checkpoint = checkpoint


@dataclass(frozen=True)
class Restart:
    """A restart that is about to happen."""

    #: From 1.
    attempt: int
    #: The corrupted run.
    run_id: str
    #: Where the next one begins: a ``tinker://`` path, loaded with its optimizer state.
    checkpoint: str
    #: What the training failed with.
    error: BaseException


@dataclass(frozen=True)
class RestartPolicy:
    """How often a corrupted run is restarted from its last checkpoint, and who is told.

    Args:
        max_restarts: Most restarts in all.
        on_restart: Called before each; what it raises ends the training.

    Raises:
        ValueError: ``max_restarts`` is negative.
    """

    max_restarts: int = 3
    on_restart: Optional[Callable[[Restart], None]] = None

    def __post_init__(self) -> None:
        if (
            isinstance(self.max_restarts, bool)
            or not isinstance(self.max_restarts, int)
            or self.max_restarts < 0
        ):
            raise ValueError(f"max_restarts must be a whole number of at least 0, not {self.max_restarts!r}")

    def run(
        self,
        service: ServiceClient,
        training: TrainingClient,
        train: Callable[[TrainingClient, Optional[str]], T],
    ) -> T:
        """Train, and once more from the last checkpoint each time the run turns out to be corrupted.

        Args:
            service: Makes the clients of the runs that follow.
            training: The run to begin with.
            train: The training itself, called with the client and with the checkpoint it begins at: None at first,
                then a ``tinker://`` path from which weights and optimizer state were loaded. It saves now and then
                with ``save_state``, under names from which it can tell where it was.

        Returns:
            What ``train`` returns.

        Raises:
            RunCorruptedError: there is no checkpoint to go on from, or there were ``max_restarts`` restarts.
            Others: what ``train`` raises, where the run is not reported as corrupted.
        """
        checkpoint: Optional[str] = None
        attempt = 0
        while True:
            try:
                return train(training, checkpoint)
            except (ClosedError, DeadlineExceeded):
                raise
            except TinkexError as error:
                run_id = training.model_id
                last = _last_checkpoint(service, run_id, error)
                checkpoint = last or checkpoint
                if checkpoint is None:
                    raise RunCorruptedError(
                        f"run {run_id} is corrupted and has no checkpoint to go on from: {error}",
                        run_id=run_id,
                    ) from error
                if attempt >= self.max_restarts:
                    raise RunCorruptedError(
                        f"run {run_id} is corrupted after {attempt} restarts, the most that were allowed: {error}."
                        f" The last checkpoint is {checkpoint}.",
                        run_id=run_id,
                        checkpoint=checkpoint,
                    ) from error
                attempt += 1
                _log.warning(
                    "Run %s is corrupted (%s): restart %d of %d from %s",
                    run_id,
                    error,
                    attempt,
                    self.max_restarts,
                    checkpoint,
                )
                if self.on_restart is not None:
                    self.on_restart(Restart(attempt, run_id, checkpoint, error))
            training = service.create_training_client_from_state_with_optimizer(checkpoint)


def _last_checkpoint(service: ServiceClient, run_id: str, error: TinkexError) -> Optional[str]:
    """Of a corrupted run; raises ``error`` if it is not, or if that cannot be found out."""
    try:
        run = service.create_rest_client().get_training_run(run_id)
    except TinkexError as unknown:
        _log.debug("Whether run %s is corrupted cannot be found out: %s", run_id, unknown)
        raise error from None
    if not run.corrupted:
        raise error
    return None if run.last_checkpoint is None else run.last_checkpoint.tinker_path
