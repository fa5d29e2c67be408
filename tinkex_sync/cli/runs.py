"""``tinkex-sync run``: list and show training runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Tuple

import click

from .connections import connected_rest
from .formats import format_time
from .groups import Group
from .output import Output, pass_output, wire_fields
from .paging import collect, count_text, hidden_count_text

if TYPE_CHECKING:
    from ..types import Checkpoint, TrainingRun

__all__ = ["run"]

_PAGE = 100


@click.group(cls=Group)
def run() -> None:
    """List and show training runs."""


def _status_text(found: TrainingRun) -> str:
    return "Failed" if found.corrupted else "Active"


def _lora_text(found: TrainingRun, template: str) -> str:
    """Return the LoRA cell; ``template`` formats the rank."""
    if not found.is_lora:
        return "No"
    return "Yes" if found.lora_rank is None else template.format(found.lora_rank)


@run.command("list")
@click.option("--limit", type=int, default=20, show_default=True, help="Largest number of runs to show. 0 shows all.")
@pass_output
def list_runs(output: Output, limit: int) -> None:
    """List training runs, newest first."""
    with connected_rest(output) as rest:
        runs, total = collect(rest.list_training_runs, "training_runs", limit, _PAGE)
    output.result(
        {"runs": [wire_fields(found) for found in runs]},
        count_text(len(runs), "training run") + hidden_count_text(len(runs), total),
        ("Run ID", "Base Model", "Owner", "LoRA", "Last Update", "Status"),
        [
            (
                found.training_run_id,
                found.base_model,
                found.model_owner,
                _lora_text(found, "Rank {}"),
                format_time(found.last_request_time),
                _status_text(found),
            )
            for found in runs
        ],
    )


def _checkpoint_rows(label: str, checkpoint: Checkpoint) -> List[Tuple[str, str]]:
    return [
        (label, checkpoint.checkpoint_id),
        ("  - Time", format_time(checkpoint.time)),
        ("  - Path", checkpoint.tinker_path),
    ]


@run.command()
@click.argument("run_id")
@pass_output
def info(output: Output, run_id: str) -> None:
    """Show one training run."""
    with connected_rest(output) as rest:
        found = rest.get_training_run(run_id)
    rows = [
        ("Run ID", found.training_run_id),
        ("Base Model", found.base_model),
        ("Owner", found.model_owner),
        ("LoRA", _lora_text(found, "Yes (Rank {})")),
        ("Last Update", format_time(found.last_request_time)),
        ("Status", _status_text(found)),
    ]
    if found.last_checkpoint is not None:
        rows += _checkpoint_rows("Last Training Checkpoint", found.last_checkpoint)
    if found.last_sampler_checkpoint is not None:
        rows += _checkpoint_rows("Last Sampler Checkpoint", found.last_sampler_checkpoint)
    if found.user_metadata:
        rows += [("Metadata", ""), *((f"  - {key}", value) for key, value in found.user_metadata.items())]
    output.result(wire_fields(found), f"Training Run: {found.training_run_id}", ("Property", "Value"), rows)
