"""``tinkex-sync train``: fine-tune on a file."""

from __future__ import annotations

import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any, Callable, Dict, Optional, TypeVar

import click
from click.core import ParameterSource

from ..connections import connected_rest
from ..groups import Command
from ..output import CommandError, Output, pass_output
from .data import SAMPLED_LOSSES, Data, read_data
from .job import Course
from .run_file import TrainOptions, TrainRun, differences

__all__ = ["train"]

F = TypeVar("F", bound=Callable[..., Any])

_SCHEME = "tinker://"
_DEFAULTS = TrainOptions(model="")


def _not_negative(_: click.Context, parameter: click.Parameter, number: float) -> float:
    if not (math.isfinite(number) and number >= 0):
        raise click.BadParameter(f"must be finite and at least 0, not {number}", param=parameter)
    return number


def _positive(context: click.Context, parameter: click.Parameter, number: float) -> float:
    if number == 0:
        raise click.BadParameter("must be above 0", param=parameter)
    return _not_negative(context, parameter, number)


def _option(name: str, help: str, **settings: Any) -> Callable[[F], F]:
    """An option that belongs to the run, whose default stands in TrainOptions."""
    default = getattr(_DEFAULTS, name.replace("-", "_"))
    return click.option(f"--{name}", default=default, show_default=default is not None, help=help, **settings)


@click.command(cls=Command)
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--model", help="Base model to fine-tune.")
@_option("rank", "Rank of the LoRA adapter.", type=click.IntRange(min=1))
@_option("learning-rate", "Learning rate of AdamW.", type=float, callback=_positive)
@_option(
    "lr-decay",
    "How the learning rate falls to 0 over all steps.",
    type=click.Choice(["none", "linear", "cosine"]),
)
@_option(
    "weight-decay",
    "Each step shrinks weights by so much of the learning rate.",
    type=float,
    callback=_not_negative,
)
@_option(
    "clip-norm", "Most the norm of all gradients may be; 0 is no limit.", type=float, callback=_not_negative
)
@_option("batch", "Examples a step.", type=click.IntRange(min=1))
@click.option("--steps", type=click.IntRange(min=1), help="Steps in all.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Times the data is gone through, instead of --steps. [default: 1]",
)
@_option("loss", "What is minimized.", type=click.Choice(["cross_entropy", *SAMPLED_LOSSES]))
@_option("context", "Tokens of a window of text, and most of an example.", type=click.IntRange(min=1))
@_option("seed", "Of the adapter's first values and of the order of the data.", type=click.IntRange(min=0))
@_option(
    "data-format",
    "What DATA is; auto goes by its ending.",
    type=click.Choice(["auto", "text", "jsonl"]),
)
@_option("tokenizer", "Id or path of the tokenizer; otherwise the one the server names.")
@click.option(
    "--save-every", type=click.IntRange(min=1), metavar="N", help="Save the state every N steps too."
)
@click.option(
    "--run-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to keep what --resume needs. [default: DATA's name with .run.json, in this directory]",
)
@click.option("--resume", metavar="RUNFILE|tinker://...", help="Go on with a run where it was last saved.")
@click.option(
    "--log-every",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Without a terminal, print a line every N steps.",
)
@pass_output
def train(
    output: Output,
    /,
    data: Optional[Path],
    steps: Optional[int],
    epochs: Optional[int],
    save_every: Optional[int],
    run_file: Optional[Path],
    resume: Optional[str],
    log_every: int,
    **_: Any,
) -> None:
    """Fine-tune a model on DATA and save it.

    DATA is a text, or JSON lines: {"prompt": ..., "completion": ...} or {"messages": [{"role": ...,
    "content": ...}, ...]} or {"prompt_tokens": [...], "completion_tokens": [...]}. All of it is checked before
    anything is sent.

    Ctrl-C finishes what was sent, saves, and says how to go on; a second one leaves at once.
    """
    if steps is not None and epochs is not None:
        raise click.UsageError("--steps and --epochs say the same thing: give one of them")
    context = click.get_current_context()
    own = [entry.name for entry in dataclasses.fields(TrainOptions)]
    given = {
        name: context.params[name]
        for name in own
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if resume is None:
        if data is None:
            raise click.UsageError("Missing argument 'DATA'.")
        if "model" not in given:
            raise click.UsageError("Missing option '--model' (on the embedded server: tinkex/tiny).")
        run_file = run_file or _run_file(data)
        if run_file.exists():
            raise CommandError(
                f"{run_file} is there already, of an earlier run",
                f"Go on with that run (--resume {shlex.quote(str(run_file))}), or give this one another --run-file.",
            )
        run = TrainRun(
            TrainOptions(**{name: context.params[name] for name in own}), steps=steps, epochs=epochs
        )
    else:
        run = _earlier(output, resume)
        if data is None and not run.data:
            raise click.UsageError("Missing argument 'DATA'; only a run file knows where it is.")
        data = data or Path(run.data)
        if run_file is None:
            run_file = _run_file(data) if resume.startswith(_SCHEME) else Path(resume)
            if resume.startswith(_SCHEME) and run_file.exists():
                raise CommandError(
                    f"{run_file} is there already", "Resume from it, or give this run another --run-file."
                )
    read = read_data(data, run.options.data_format, run.options.loss)
    if resume is not None:
        _check_same(run, read, given, steps, epochs)
    run.data, run.sha256 = str(data.resolve()), read.sha256
    if Course(output, run, run_file, read).go(save_every, log_every):
        context.exit(130)


def _run_file(data: Path) -> Path:
    return Path(f"{data.name}.run.json")


def _earlier(output: Output, resume: str) -> TrainRun:
    if not resume.startswith(_SCHEME):
        return TrainRun.read(Path(resume))
    with connected_rest(output) as rest:
        return TrainRun.from_label(resume, rest.get_training_run_by_tinker_path(resume).user_metadata)


def _check_same(
    run: TrainRun, data: Data, given: Dict[str, Any], steps: Optional[int], epochs: Optional[int]
) -> None:
    """See that the run can go on with these; takes over another length.

    Raises:
        CommandError: the run was made otherwise; it names what.
    """
    found = differences(run.options, given)
    if (steps or epochs) and (steps, epochs) != (run.steps, run.epochs):
        if run.options.lr_decay != "none":
            length = f"--steps {run.steps}" if run.steps else f"--epochs {run.epochs or 1}"
            found.append(f"the run has {length}, over which its learning rate falls ({run.options.lr_decay})")
        run.steps, run.epochs, run.complete = steps, epochs, False
    if data.sha256 != run.sha256:
        found.append(
            f"DATA: {data.path} has changed (SHA-256 {data.sha256[:12]}, the run has {run.sha256[:12]})"
        )
    if found:
        raise CommandError(
            "this would not be the same run",
            *found,
            "Leave them as they were, or start a new run without --resume.",
        )
