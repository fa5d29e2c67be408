"""Sample a dataset with the engine of a cluster, which the distribution tinkex-sync-scale runs."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import click

from ..connections import connected_service
from ..output import CommandError, Output
from .sampler import open_sampler

__all__ = ["ENGINES", "ClusterRun"]

#: Values of ``--engine``; each is an extra of tinkex-sync-scale.
ENGINES = ("dask", "ray", "spark")
#: Least seconds between two lines of progress.
_PROGRESS_INTERVAL = 10.0


@dataclass(frozen=True)
class ClusterRun:
    """The options of ``sample`` that a run on a cluster uses."""

    engine: str
    #: Worker processes of a cluster on this machine.
    workers: int
    prompts: str
    #: Folder of the output.
    folder: Optional[Path]
    concurrency: int
    timeout: Optional[float]
    stop_on_error: bool

    def sample(self, output: Output, options: Dict[str, Any]) -> None:
        """Sample every row and print the report; exit with status 1 if a row failed.

        Args:
            options: "model", "tokenizer", "num_samples", "logprobs", and the fields of ``SamplingParams``.

        Raises:
            CommandError: The distribution or the engine is not installed, or the job cannot run.
        """
        scale = self._import()
        if self.folder is None or str(self.folder) == "-":
            raise CommandError("--engine writes one file for each partition", "Give a folder with -o.")
        if self.folder.is_file():
            raise CommandError(f"{self.folder} is a file", "Give a folder with -o.")
        report = self._run(scale, output, dict(options))
        rows = [(name.replace("_", " ").capitalize(), str(value)) for name, value in report.items()]
        output.result(report, f"Responses to {self.prompts}", ("Property", "Value"), rows)
        if report["rows_failed"]:
            output.note(f'{report["rows_failed"]} rows failed; the column "error" contains the reasons.')
            click.get_current_context().exit(1)

    def _import(self) -> Any:
        try:
            return importlib.import_module("tinkex_sync_scale")
        except ModuleNotFoundError:
            raise CommandError(
                f"--engine {self.engine} needs tinkex-sync-scale", f'pip install "tinkex-sync-scale[{self.engine}]"'
            ) from None

    def _run(self, scale: Any, output: Output, options: Dict[str, Any]) -> Dict[str, Any]:
        from ...types import SamplingParams

        model, last_shown = options.pop("model"), 0.0

        def show(progress: Any) -> None:
            nonlocal last_shown
            if progress.elapsed >= last_shown + _PROGRESS_INTERVAL:
                last_shown = progress.elapsed
                output.note(f"{progress.rows_done} of {progress.rows} rows after {progress.elapsed:.0f} s")

        arguments = {name: options.pop(name) for name in ("tokenizer", "num_samples", "logprobs")}
        with connected_service(output) as service:
            try:
                report = scale.sample_dataset(
                    self.prompts,
                    open_sampler(service, model),
                    SamplingParams(**options),
                    output=self.folder,
                    engine=self.engine,
                    workers=self.workers,
                    max_in_flight=self.concurrency,
                    on_error="raise" if self.stop_on_error else "record",
                    timeout=self.timeout,
                    model=model,
                    progress=show,
                    **arguments,
                )
            except (scale.JobError, ValueError) as error:
                raise CommandError(str(error), "Run the same command again to continue an interrupted job.") from None
        return asdict(report)
