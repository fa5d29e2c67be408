"""Carry out one ``train`` command: connect, encode, train, save, and print the result."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from ..connections import connected_service
from ..output import Output
from .data import Data
from .run_file import TrainRun

if TYPE_CHECKING:
    from ...clients import ServiceClient, TrainingClient
    from .examples import Examples
    from .progress import TrainProgress

__all__ = ["TrainJob"]


class TrainJob:
    """Trains until ``run`` is complete or Ctrl-C is pressed. After each save the run file is written.

    Args:
        run: The record of the run. It is updated.
        run_file: The path of the run file.
        validation: The content of the validation file, if there is one.
    """

    def __init__(
        self, output: Output, run: TrainRun, run_file: Path, data: Data, validation: Optional[Data] = None
    ) -> None:
        self._output = output
        self._run = run
        self._run_file = run_file
        self._data = data
        self._validation = validation
        self._first_step = run.step
        self._losses: List[Optional[float]] = []

    def run(self, save_every: Optional[int], log_every: int) -> bool:
        """Train, save, and print the result.

        Args:
            save_every: Number of steps between two saves. None: save only at the end.
            log_every: Number of steps between two lines where standard error is not a terminal.

        Returns:
            Whether Ctrl-C ended the training.
        """
        from .progress import TrainProgress

        run = self._run
        if run.complete:
            self._output.note("This run is complete. To continue it, give more --steps or --epochs.")
            self._print_result(False)
            return False
        if self._is_embedded:
            self._output.note(
                "The embedded server ends with this command, and its checkpoints are deleted. To keep them, start"
                " a server that stays: tinkex-sync serve --data DIRECTORY"
            )
        run.drop_later_evaluations()
        examples = None if run.options.tokenizer is None else self._encode(None)
        progress = TrainProgress(self._output, log_every)
        with connected_service(self._output, plugins=[progress]) as service:
            training = self._create_client(service)
            if examples is None:
                examples = self._encode(training)
            run.run_ids.append(training.model_id)
            run.write(self._run_file)
            self._print_start(*map(len, examples))
            self._train(training, examples, save_every, progress)
        self._print_result(not run.complete)
        return not run.complete

    def _encode(self, training: Optional[TrainingClient]) -> Tuple[Examples, Examples]:
        """Encode the data and the validation file.

        Args:
            training: The client whose tokenizer is used. None: the tokenizer of the options is used.
        """
        from ...tokenizers.loading import load_tokenizer
        from .batches import Batches
        from .examples import encode

        options = self._run.options
        tokenizer = training.get_tokenizer() if training else load_tokenizer(options.tokenizer or "")
        examples = encode(self._data, tokenizer, options.loss, options.context)
        held_out = encode(self._validation, tokenizer, options.loss, options.context) if self._validation else ()
        self._run.set_total(Batches(len(examples), options.batch, options.seed).per_epoch)
        return examples, held_out

    def _create_client(self, service: ServiceClient) -> TrainingClient:
        run, metadata = self._run, self._run.to_metadata()
        if run.checkpoint is not None:
            return service.create_training_client_from_state_with_optimizer(run.checkpoint, metadata)
        options = run.options
        return service.create_lora_training_client(
            options.model, rank=options.rank, seed=options.seed, user_metadata=metadata
        )

    def _print_start(self, num_examples: int, num_held_out: int) -> None:
        run = self._run
        text = f"Run {run.run_id}: {num_examples} examples, {run.total} steps of {run.options.batch}"
        if num_held_out:
            text += f", {num_held_out} examples for validation"
        if run.checkpoint is not None:
            text += f", continued after step {run.step} ({run.checkpoint})"
        elif len(run.run_ids) > 1:
            text += "; nothing was saved before, so it starts again"
        self._output.note(text)

    def _train(
        self,
        training: TrainingClient,
        examples: Tuple[Examples, Examples],
        save_every: Optional[int],
        progress: TrainProgress,
    ) -> None:
        from ..interrupts import DeferredInterrupt
        from .loop import TrainLoop

        run = self._run
        loop = TrainLoop(training, *examples, run, save_every, progress, self._record_save)
        self._losses = loop.losses
        try:
            with DeferredInterrupt(progress.show_interrupt) as interrupt:
                with progress.shown(run.step, run.total):
                    loop.run(interrupt)
                # Ctrl-C may have ended the last evaluation.
                if run.step == run.total and not run.needs_evaluation(run.step):
                    name = f"step-{run.step:06d}-sampler"
                    run.sampler_checkpoint = training.save_weights_for_sampler(name).path
                    run.complete = True
                    run.write(self._run_file)
        finally:
            if not run.complete:
                is_saved = run.checkpoint is not None
                saved = f"Saved after step {run.step}." if is_saved else "Nothing was saved yet."
                self._output.note(f"{saved} To continue: {self._resume_command()}")

    def _record_save(self, step: int, path: str) -> None:
        self._run.add_checkpoint(step, path)
        self._run.write(self._run_file)

    def _resume_command(self) -> str:
        # Standard input has no path in the run file, so it must be given again.
        data = [] if self._run.data else ["-"]
        return self._output.command_line("train", *data, "--resume", str(self._run_file))

    def _print_result(self, interrupted: bool) -> None:
        run = self._run
        # JSON has no number for a loss that is not finite.
        losses = [None if loss is None or not math.isfinite(loss) else loss for loss in self._losses]
        data: Dict[str, Any] = {
            "run_id": run.run_id,
            "run_ids": run.run_ids,
            "model": run.options.model,
            "run_file": str(self._run_file),
            "interrupted": interrupted,
            "step": run.step,
            "steps": run.total,
            "checkpoint": run.checkpoint,
            "sampler_checkpoint": run.sampler_checkpoint,
            "checkpoints": run.checkpoints,
            "first_step": self._first_step,
            "losses": losses,
            "validation": run.validation or None,
            "evaluations": run.evaluations,
        }
        known = [loss for loss in losses if loss is not None]
        rows = [
            ("Run ID", run.run_id),
            ("Base Model", run.options.model),
            ("Steps", f"{run.step} of {run.total}"),
            ("First loss per token", f"{known[0]:.4f}" if known else "N/A"),
            ("Last loss per token", f"{known[-1]:.4f}" if known else "N/A"),
            *self._validation_rows(),
            ("Training Checkpoint", run.checkpoint or "N/A"),
            ("Sampler Checkpoint", run.sampler_checkpoint or "N/A"),
            ("Run File", str(self._run_file)),
        ]
        title = "Interrupted" if interrupted else "Trained"
        self._output.result(data, f"{title}: {run.run_id}", ("Property", "Value"), rows)
        if not interrupted:
            self._print_next_command()

    @property
    def _is_embedded(self) -> bool:
        """Whether the server ends with this command."""
        return (self._output.base_url or os.environ.get("TINKER_BASE_URL")) == "local"

    def _print_next_command(self) -> None:
        """Print the command that samples from the trained weights, or that starts a server that keeps them."""
        options = self._run.options
        if self._is_embedded:
            Output().next_command("serve", "--data", "tinkex-data")
            return
        model = ["--model", self._run.sampler_checkpoint or options.model]
        tokenizer = ["--tokenizer", options.tokenizer] if options.tokenizer else []
        start = self._data.first_prompt()
        command = ["chat"] if start is None else ["sample", start, "--max-tokens", "64"]
        self._output.next_command(*command, *model, *tokenizer)

    def _validation_rows(self) -> List[Tuple[str, str]]:
        if not self._run.evaluations:
            return []
        last = self._run.evaluations[-1]
        loss = "N/A" if last["loss"] is None else f"{last['loss']:.4f}"
        return [("Validation loss per token", f"{loss} (after step {last['step']})")]
