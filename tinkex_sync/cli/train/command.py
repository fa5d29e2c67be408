"""``tinkex-sync train``: fine-tune a model on a file."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shlex
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

import click
from click.core import ParameterSource

from ..connections import connected_rest
from ..files import STANDARD_INPUT, shown_name
from ..groups import Command
from ..output import CommandError, Output, pass_output
from .data import SAMPLED_LOSSES, Data, read_data
from .job import TrainJob
from .run_file import TrainOptions, TrainRun, option_differences, parse_loss_config

__all__ = ["train"]

F = TypeVar("F", bound=Callable[..., Any])

_SCHEME = "tinker://"
_DEFAULTS = TrainOptions(model="")


def _check_not_negative(_: click.Context, parameter: click.Parameter, number: float) -> float:
    if not (math.isfinite(number) and number >= 0):
        raise click.BadParameter(f"must be finite and at least 0, not {number}", param=parameter)
    return number


def _check_positive(context: click.Context, parameter: click.Parameter, number: float) -> float:
    if number == 0:
        raise click.BadParameter("must be above 0", param=parameter)
    return _check_not_negative(context, parameter, number)


def _option(name: str, help: str, **settings: Any) -> Callable[[F], F]:
    """Return an option for a field of TrainOptions, which defines the default."""
    default = getattr(_DEFAULTS, name.replace("-", "_"))
    return click.option(f"--{name}", default=default, show_default=default is not None, help=help, **settings)


def _check_loss_config(_context: click.Context, _option: click.Parameter, value: Optional[str]) -> Optional[str]:
    try:
        parse_loss_config(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return value


@click.command(cls=Command)
@click.argument("data", required=False, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--model", help="Base model to fine-tune.")
@_option("rank", "Rank of the LoRA adapter.", type=click.IntRange(min=1))
@_option("learning-rate", "Learning rate of AdamW.", type=float, callback=_check_positive)
@_option(
    "lr-decay", "How the learning rate falls to 0 over all steps.", type=click.Choice(["none", "linear", "cosine"])
)
@_option(
    "weight-decay",
    "Fraction of the weights that each step removes, times the learning rate.",
    type=float,
    callback=_check_not_negative,
)
@_option(
    "clip-norm", "Largest norm of all gradients together. 0 means no limit.", type=float, callback=_check_not_negative
)
@_option("batch", "Number of examples of a step.", type=click.IntRange(min=1))
@click.option("--steps", type=click.IntRange(min=1), help="Number of steps of the run.")
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Number of passes over the data, instead of --steps. [default: 1]"
)
@_option("loss", "Loss function.", type=click.Choice(["cross_entropy", *SAMPLED_LOSSES]))
@_option(
    "loss-config",
    "Settings of the loss function, such as clip_low_threshold=0.8,clip_high_threshold=1.2.",
    metavar="NAME=NUMBER,...",
    callback=_check_loss_config,
)
@_option("context", "Tokens of a window of text, and largest length of an example.", type=click.IntRange(min=1))
@_option("seed", "Seed of the adapter's first values and of the order of the data.", type=click.IntRange(min=0))
@_option(
    "data-format",
    "Format of DATA and of --validation. auto decides by the end of each file name.",
    type=click.Choice(["auto", "text", "jsonl"]),
)
@_option("ignore-keys", "Keys of records and messages that are not read, separated by commas.", metavar="NAMES")
@_option("tokenizer", "Id or path of the tokenizer. Default: the tokenizer that the server names.")
@click.option(
    "--validation",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Held-out data, in a format of DATA. Its mean loss per token is computed at the end, without training on it.",
)
@_option("eval-every", "Compute the loss of --validation after every N steps too.", metavar="N", type=click.IntRange(1))
@click.option("--save-every", type=click.IntRange(min=1), metavar="N", help="Save the state after every N steps too.")
@click.option(
    "--run-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the data that --resume needs. [default: DATA's name with .run.json, in this directory]",
)
@click.option("--resume", metavar="RUNFILE|tinker://...", help="Continue a run after its last save.")
@click.option(
    "--log-every",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="Print a line after every N steps if standard error is not a terminal.",
)
@pass_output
def train(
    output: Output, /, data: Optional[Path], run_file: Optional[Path], validation: Optional[Path], **options: Any
) -> None:
    """Fine-tune a model on DATA and save it.

    DATA is a file, or - for standard input. It contains a text, or JSON lines: {"prompt": ..., "completion": ...} or
    {"messages": [{"role": ..., "content": ...}, ...]} or {"prompt_tokens": [...], "completion_tokens": [...]}. All of
    it is checked before anything is sent.

    Ctrl-C finishes the steps in flight, saves, and prints the command that continues the run. A second Ctrl-C exits
    immediately.
    """
    if options["steps"] is not None and options["epochs"] is not None:
        raise click.UsageError("--steps and --epochs both set the length: give one of them")
    if options["resume"] is None:
        run, data, run_file = _start_run(options, data, run_file)
    else:
        run, data, run_file = _resumed_run(output, options["resume"], data, run_file)
    validation = _checked_validation(run, validation, is_resumed=options["resume"] is not None)
    how = (run.options.data_format, run.options.loss, run.options.ignored_keys)
    with contextlib.ExitStack() as opened:
        content = opened.enter_context(read_data(data, *how))
        held_out = None if validation is None else opened.enter_context(read_data(validation, *how))
        if options["resume"] is not None:
            _require_same_run(run, content, held_out, options)
        run.data = "" if data == STANDARD_INPUT else str(data.resolve())
        run.sha256 = content.sha256
        if validation is not None and held_out is not None:
            run.validation, run.validation_sha256 = str(validation.resolve()), held_out.sha256
        is_interrupted = TrainJob(output, run, run_file, content, held_out).run(
            options["save_every"], options["log_every"]
        )
    if is_interrupted:
        click.get_current_context().exit(130)


def _given_options(options: Dict[str, Any]) -> Dict[str, Any]:
    """Return the options of the command line that are fields of TrainOptions."""
    context = click.get_current_context()
    return {
        entry.name: options[entry.name]
        for entry in dataclasses.fields(TrainOptions)
        if context.get_parameter_source(entry.name) is ParameterSource.COMMANDLINE
    }


def _start_run(options: Dict[str, Any], data: Optional[Path], run_file: Optional[Path]) -> Tuple[TrainRun, Path, Path]:
    """Return a new run, the path of its data, and that of its run file."""
    if data is None:
        raise click.UsageError("Missing argument 'DATA'.")
    if options["model"] is None:
        raise click.UsageError("Missing option '--model' (on the embedded server: tinkex/tiny).")
    run_file = run_file or _default_run_file(data)
    if run_file.exists():
        raise CommandError(
            f"{run_file} already exists; it belongs to an earlier run",
            f"Continue that run (--resume {shlex.quote(str(run_file))}), or give this one another --run-file.",
        )
    own = TrainOptions(**{entry.name: options[entry.name] for entry in dataclasses.fields(TrainOptions)})
    return TrainRun(own, steps=options["steps"], epochs=options["epochs"]), data, run_file


def _resumed_run(
    output: Output, resume: str, data: Optional[Path], run_file: Optional[Path]
) -> Tuple[TrainRun, Path, Path]:
    """Return the run that ``resume`` names, the path of its data, and that of its run file."""
    is_checkpoint = resume.startswith(_SCHEME)
    if is_checkpoint:
        with connected_rest(output) as rest:
            metadata = rest.get_training_run_by_tinker_path(resume).user_metadata
        run = TrainRun.from_metadata(resume, metadata)
    else:
        run = TrainRun.read(Path(resume))
    if data is None and not run.data:
        raise click.UsageError("Missing argument 'DATA'. The run does not contain its path.")
    data = data or Path(run.data)
    if run_file is None:
        run_file = _default_run_file(data) if is_checkpoint else Path(resume)
        if is_checkpoint and run_file.exists():
            raise CommandError(f"{run_file} already exists", "Resume from it, or give this run another --run-file.")
    return run, data, run_file


def _default_run_file(data: Path) -> Path:
    return Path(f"{'stdin' if data == STANDARD_INPUT else data.name}.run.json")


def _checked_validation(run: TrainRun, validation: Optional[Path], is_resumed: bool) -> Optional[Path]:
    """Return the path of the run's validation file, if it has one."""
    if validation == STANDARD_INPUT:
        raise click.BadParameter("must be a file, because it is read again by --resume", param_hint="'--validation'")
    if is_resumed:
        if validation is not None and not run.validation_sha256:
            raise CommandError("this would not be the same run", "--validation is given, the run has none")
        if validation is None and run.validation_sha256 and not run.validation:
            raise click.UsageError("Missing option '--validation'. The run does not contain the path of its file.")
        validation = validation or (Path(run.validation) if run.validation else None)
    if run.options.eval_every is not None and validation is None:
        raise click.UsageError("--eval-every needs the file to evaluate: give --validation too")
    return validation


def _require_same_run(run: TrainRun, data: Data, validation: Optional[Data], options: Dict[str, Any]) -> None:
    """Check that the run can continue with the given options and data, and set its new length.

    Raises:
        CommandError: The run was started with other options or data. It names them.
    """
    steps, epochs = options["steps"], options["epochs"]
    found = option_differences(run.options, _given_options(options))
    if (steps or epochs) and (steps, epochs) != (run.steps, run.epochs):
        if run.options.lr_decay != "none":
            length = f"--steps {run.steps}" if run.steps else f"--epochs {run.epochs or 1}"
            found.append(f"the run has {length}, over which its learning rate falls ({run.options.lr_decay})")
        run.steps, run.epochs, run.complete = steps, epochs, False
    contents = [("DATA", data, run.sha256)]
    if validation is not None:
        contents.append(("--validation", validation, run.validation_sha256))
    for name, content, earlier in contents:
        if content.sha256 != earlier:
            hashes = f"SHA-256 {content.sha256[:12]}, the run has {earlier[:12]}"
            found.append(f"{name}: {shown_name(content.path)} has changed ({hashes})")
    if found:
        raise CommandError(
            "this would not be the same run", *found, "Leave them as they were, or start a new run without --resume."
        )
