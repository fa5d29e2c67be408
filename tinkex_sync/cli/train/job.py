"""One ``train`` command from connecting to its result, with everything that is needed to go on later."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ..connections import connected_service
from ..output import Output
from .data import Data
from .run_file import TrainRun

if TYPE_CHECKING:
    from ...clients import ServiceClient, TrainingClient
    from .examples import Example
    from .loop import Interrupts
    from .progress import TrainProgress

__all__ = ["Course"]


class Course:
    """Takes ``run`` to its end, or to Ctrl-C; ``file`` always says how far the last save is."""

    def __init__(self, output: Output, run: TrainRun, file: Path, data: Data) -> None:
        self._output = output
        self._run = run
        self._file = file
        self._data = data
        self._first = run.step
        self._losses: List[Optional[float]] = []

    def go(self, save_every: Optional[int], log_every: int) -> bool:
        """Train, save, print the result.

        Returns:
            Whether Ctrl-C ended it.
        """
        from .loop import Interrupts
        from .progress import TrainProgress

        run, interrupted = self._run, False
        if run.complete:
            self._output.note("This run is complete. To take it further, give more --steps or --epochs.")
        else:
            if (self._output.base_url or os.environ.get("TINKER_BASE_URL")) == "local":
                self._output.note(
                    "The embedded server ends with this command, and what is saved with it; to keep that, start"
                    " one that stays: tinkex-sync serve --data DIRECTORY"
                )
            examples = None if run.options.tokenizer is None else self._encoded(None)
            progress = TrainProgress(self._output, log_every)
            with connected_service(self._output, plugins=[progress]) as service:
                training = self._client(service)
                if examples is None:
                    examples = self._encoded(training)
                run.run_ids.append(training.model_id)
                run.write(self._file)
                self._told(len(examples))
                with Interrupts(progress.interrupted) as interrupts:
                    self._train(training, examples, save_every, progress, interrupts)
                interrupted = not run.complete
        self._print(interrupted)
        return interrupted

    def _encoded(self, training: Optional[TrainingClient]) -> List[Example]:
        from ...tokenizers.loading import load_tokenizer
        from .examples import Batches, encode

        options = self._run.options
        tokenizer = training.get_tokenizer() if training else load_tokenizer(options.tokenizer or "")
        examples = encode(self._data, tokenizer, options.loss, options.context)
        self._run.count(Batches(len(examples), options.batch, options.seed).per_epoch)
        return examples

    def _client(self, service: ServiceClient) -> TrainingClient:
        run, label = self._run, self._run.label()
        if run.checkpoint is not None:
            return service.create_training_client_from_state_with_optimizer(run.checkpoint, label)
        options = run.options
        return service.create_lora_training_client(
            options.model, rank=options.rank, seed=options.seed, user_metadata=label
        )

    def _told(self, examples: int) -> None:
        run = self._run
        head = f"Run {run.run_id}: {examples} examples, {run.total} steps of {run.options.batch}"
        if run.checkpoint is not None:
            head += f", going on after step {run.step} ({run.checkpoint})"
        elif len(run.run_ids) > 1:
            head += "; nothing was saved before, so it begins anew"
        self._output.note(head)

    def _train(
        self,
        training: TrainingClient,
        examples: List[Example],
        save_every: Optional[int],
        progress: TrainProgress,
        interrupts: Interrupts,
    ) -> None:
        from .loop import train

        run = self._run
        try:
            with progress.shown(run.step, run.total):
                train(training, examples, run, save_every, progress, interrupts, self._saved, self._losses)
            if run.step == run.total:
                name = f"step-{run.step:06d}-sampler"
                run.sampler_checkpoint = training.save_weights_for_sampler(name).path
                run.complete = True
                run.write(self._file)
        finally:
            if not run.complete:
                saved = (
                    "Nothing was saved yet." if run.checkpoint is None else f"Saved after step {run.step}."
                )
                self._output.note(f"{saved} To go on: {self._resume()}")

    def _saved(self, step: int, path: str) -> None:
        self._run.saved(step, path)
        self._run.write(self._file)

    def _resume(self) -> str:
        server = ["--base-url", self._output.base_url] if self._output.base_url else []
        words = ["tinkex-sync", *server, "train", "--resume", str(self._file)]
        return " ".join(map(shlex.quote, words))

    def _print(self, interrupted: bool) -> None:
        run = self._run
        losses = [None if loss is None or not math.isfinite(loss) else loss for loss in self._losses]
        data: Dict[str, Any] = {
            "run_id": run.run_id,
            "run_ids": run.run_ids,
            "model": run.options.model,
            "run_file": str(self._file),
            "interrupted": interrupted,
            "step": run.step,
            "steps": run.total,
            "checkpoint": run.checkpoint,
            "sampler_checkpoint": run.sampler_checkpoint,
            "checkpoints": run.checkpoints,
            "first_step": self._first,
            "losses": losses,
        }
        told = [loss for loss in losses if loss is not None]
        rows = [
            ("Run ID", run.run_id),
            ("Base Model", run.options.model),
            ("Steps", f"{run.step} of {run.total}"),
            ("First loss per token", f"{told[0]:.4f}" if told else "N/A"),
            ("Last loss per token", f"{told[-1]:.4f}" if told else "N/A"),
            ("Training Checkpoint", run.checkpoint or "N/A"),
            ("Sampler Checkpoint", run.sampler_checkpoint or "N/A"),
            ("Run File", str(self._file)),
        ]
        title = "Interrupted" if interrupted else "Trained"
        self._output.result(data, f"{title}: {run.run_id}", ("Property", "Value"), rows)
