"""The record of a training run: its options and its last save, in a local file and in the server's metadata."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Mapping, Optional

from ..files import read_bytes
from ..json_lines import split_names
from ..output import CommandError

__all__ = ["TrainOptions", "TrainRun", "option_differences", "parse_loss_config"]

_FORMAT = 1
#: The key of the server's run metadata that contains the options, because a checkpoint alone does not contain them.
_METADATA_KEY = "tinkex_sync_train"
#: Some servers have paths of two parts, without the kind.
_CHECKPOINT = re.compile(r"^tinker://([^/]+)/(?:weights/)?step-(\d+)$")


def parse_loss_config(text: Optional[str]) -> Optional[Dict[str, float]]:
    """Return the settings of a loss function by name.

    Raises:
        ValueError: An entry is not a name and a number.
    """
    if not text:
        return None
    found: Dict[str, float] = {}
    for entry in text.split(","):
        name, _, number = entry.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            raise ValueError(f"{entry.strip()!r} is not NAME=NUMBER, such as clip_low_threshold=0.8") from None
        if not name.strip().isidentifier() or not math.isfinite(found[name.strip()]):
            raise ValueError(f"{entry.strip()!r} is not NAME=NUMBER, such as clip_low_threshold=0.8")
    return found


@dataclass(frozen=True)
class TrainOptions:
    """The options that determine the results of a run, apart from its data and its length."""

    model: str
    rank: int = 32
    learning_rate: float = 1e-4
    lr_decay: str = "none"
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    batch: int = 8
    loss: str = "cross_entropy"
    #: Settings of the loss function, as "name=number,name=number".
    loss_config: Optional[str] = None
    context: int = 1024
    seed: int = 0
    data_format: str = "auto"
    tokenizer: Optional[str] = None
    #: Names that are separated by commas.
    ignore_keys: Optional[str] = None
    #: Number of steps between two evaluations. None: only at the end.
    eval_every: Optional[int] = None

    @property
    def ignored_keys(self) -> FrozenSet[str]:
        """The keys of records and messages that are not read."""
        return split_names(self.ignore_keys)

    @property
    def loss_fn_config(self) -> Optional[Dict[str, float]]:
        """The settings of the loss function by name; None without any."""
        return parse_loss_config(self.loss_config)

    def learning_rate_of(self, step: int, steps: int) -> float:
        """Return the learning rate of one step.

        Args:
            step: The step, from 0.
            steps: The number of steps of the run.
        """
        if self.lr_decay == "linear":
            return self.learning_rate * (1 - step / steps)
        if self.lr_decay == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.learning_rate


@dataclass
class TrainRun:
    """One run, over all its resumptions. Used by one thread."""

    options: TrainOptions
    #: The path of the data when it was last read.
    data: str = ""
    #: SHA-256 of the content of the data, in hexadecimal.
    sha256: str = ""
    #: The path of the validation file when it was last read, and the SHA-256 of its content. Both may be empty.
    validation: str = ""
    validation_sha256: str = ""
    #: The length as the user gave it. If both are None, it is one epoch.
    steps: Optional[int] = None
    epochs: Optional[int] = None
    #: Number of steps of the run. 0 until the data is encoded.
    total: int = 0
    #: Number of steps that ``checkpoint`` contains.
    step: int = 0
    checkpoint: Optional[str] = None
    sampler_checkpoint: Optional[str] = None
    #: The ids on the server. Each resumption adds one.
    run_ids: List[str] = field(default_factory=list)
    #: All saves, each with "step" and "path".
    checkpoints: List[Dict[str, Any]] = field(default_factory=list)
    #: All evaluations, each with "step" and "loss", the mean loss per token. None: not known or not finite.
    evaluations: List[Dict[str, Any]] = field(default_factory=list)
    #: Whether all steps are taken and the weights for sampling are saved.
    complete: bool = False

    @property
    def run_id(self) -> str:
        """The latest id on the server, or an empty text."""
        return self.run_ids[-1] if self.run_ids else ""

    def set_total(self, steps_per_epoch: int) -> None:
        """Compute ``total`` from the length of an epoch.

        Raises:
            CommandError: The run has taken more steps than this.
        """
        self.total = self.steps or (self.epochs or 1) * steps_per_epoch
        if self.total < self.step:
            raise CommandError(
                f"the run has already taken {self.step} steps, which is more than {self.total}",
                "Give more --steps or --epochs.",
            )

    def add_checkpoint(self, step: int, path: str) -> None:
        """Record a checkpoint that was saved after ``step`` steps."""
        self.step, self.checkpoint = step, path
        self.checkpoints.append({"step": step, "path": path})

    def add_evaluation(self, step: int, loss: Optional[float]) -> None:
        """Record the mean loss per token of the validation file after ``step`` steps."""
        # JSON has no number for a loss that is not finite.
        self.evaluations.append({"step": step, "loss": loss if loss is None or math.isfinite(loss) else None})

    def drop_later_evaluations(self) -> None:
        """Remove evaluations of steps after the last save. These steps are taken again."""
        self.evaluations = [entry for entry in self.evaluations if entry["step"] <= self.step]

    def needs_evaluation(self, step: int) -> bool:
        """Return whether the validation file must be evaluated after ``step`` steps, and was not."""
        every = self.options.eval_every
        is_due = step == self.total or (every is not None and step > 0 and step % every == 0)
        is_done = any(entry["step"] == step for entry in self.evaluations)
        return bool(self.validation_sha256) and is_due and not is_done

    def write(self, path: Path) -> None:
        """Write the record to a file. The file is replaced in one step, so it is complete at every moment.

        Raises:
            CommandError: The file cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n"
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except BaseException:
                with suppress(OSError):
                    Path(temporary).unlink()
                raise
        except OSError as error:
            raise CommandError(
                f"cannot write the run file {path}: {error.strerror}", "Give --run-file another path."
            ) from None

    @classmethod
    def read(cls, path: Path) -> TrainRun:
        """Read the record that :meth:`write` wrote.

        Raises:
            CommandError: The file cannot be read, or is not a run file of this version.
        """
        try:
            content = json.loads(read_bytes(path))
        except CommandError as error:
            raise CommandError(
                error.message,
                "Give --resume the run file of an earlier run, or the tinker:// path of one of its checkpoints.",
            ) from None
        except ValueError as error:
            raise CommandError(f"{path} is not a run file: {error}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CommandError(f"{path} is not a run file of this version")
        known = {entry.name for entry in fields(cls)} & set(content)
        try:
            options = TrainOptions(**content["options"])
            return cls(**{**{name: content[name] for name in known}, "options": options})
        except (TypeError, KeyError) as error:
            raise CommandError(f"{path} is not a run file: {error}") from None

    def to_metadata(self) -> Dict[str, str]:
        """Return metadata for the server's run, from which :meth:`from_metadata` restores this record."""
        content = {name: getattr(self, name) for name in ("sha256", "validation_sha256", "steps", "epochs")}
        content["options"] = asdict(self.options)
        return {_METADATA_KEY: json.dumps(content, separators=(",", ":"))}

    @classmethod
    def from_metadata(cls, path: str, metadata: Optional[Mapping[str, str]]) -> TrainRun:
        """Restore the record as it was when a checkpoint was saved.

        Args:
            path: The ``tinker://`` path of the checkpoint.
            metadata: The metadata of the server's run.

        Raises:
            CommandError: The checkpoint was not saved by this command.
        """
        match = _CHECKPOINT.match(path)
        if match is None or not metadata or _METADATA_KEY not in metadata:
            raise CommandError(
                f"{path} was not saved by this command, so its step is not known",
                "Resume from the run file, or from a path such as tinker://RUN/weights/step-000100.",
            )
        try:
            content = json.loads(metadata[_METADATA_KEY])
            options = TrainOptions(**content["options"])
            run = cls(options, run_ids=[match.group(1)])
            run.sha256, run.steps, run.epochs = content["sha256"], content["steps"], content["epochs"]
            run.validation_sha256 = content["validation_sha256"]
        except (ValueError, TypeError, KeyError) as error:
            raise CommandError(f"the server's metadata of the run of {path} cannot be read: {error}") from None
        run.add_checkpoint(int(match.group(2)), path)
        return run


def option_differences(options: TrainOptions, given: Mapping[str, Any]) -> List[str]:
    """Return one line for each given option that differs from the option of the run.

    Args:
        options: The options of the run.
        given: Options of the command line, by the name of their field.
    """
    return [
        f"--{name.replace('_', '-')}: {value} is given, the run has {getattr(options, name)}"
        for name, value in given.items()
        if value != getattr(options, name)
    ]
