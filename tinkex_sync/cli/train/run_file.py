"""The record of a run: what it is made with and how far it was saved, in a local file and with its checkpoints."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from ..output import CommandError

__all__ = ["TrainOptions", "TrainRun", "differences"]

_FORMAT = 1
#: Label of the server's run that holds what a checkpoint alone does not say.
_LABEL = "tinkex_sync_train"
_CHECKPOINT = re.compile(r"^tinker://([^/]+)/weights/step-(\d+)$")


@dataclass(frozen=True)
class TrainOptions:
    """What decides a run's results, apart from its data."""

    model: str
    rank: int = 32
    learning_rate: float = 1e-4
    lr_decay: str = "none"
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    batch: int = 8
    loss: str = "cross_entropy"
    context: int = 1024
    seed: int = 0
    data_format: str = "auto"
    tokenizer: Optional[str] = None

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of ``step``, from 0, of ``steps``."""
        if self.lr_decay == "linear":
            return self.learning_rate * (1 - step / steps)
        if self.lr_decay == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.learning_rate


@dataclass
class TrainRun:
    """One run, over all the times it was resumed."""

    options: TrainOptions
    #: The data's path when it was last read, and the SHA-256 of its content.
    data: str = ""
    sha256: str = ""
    #: Its length as it was asked for; neither means one epoch.
    steps: Optional[int] = None
    epochs: Optional[int] = None
    #: Steps in all, once the data is counted.
    total: int = 0
    #: Steps behind ``checkpoint``.
    step: int = 0
    checkpoint: Optional[str] = None
    sampler_checkpoint: Optional[str] = None
    #: The server's ids; a resumed run has a new one.
    run_ids: List[str] = field(default_factory=list)
    checkpoints: List[Dict[str, Any]] = field(default_factory=list)
    #: All steps are taken and all that is to be saved is.
    complete: bool = False

    @property
    def run_id(self) -> str:
        """The latest."""
        return self.run_ids[-1] if self.run_ids else ""

    def count(self, per_epoch: int) -> None:
        """Set ``total``, now that it is known how many steps an epoch has.

        Raises:
            CommandError: that is less than was taken already.
        """
        self.total = self.steps or (self.epochs or 1) * per_epoch
        if self.total < self.step:
            raise CommandError(
                f"the run has taken {self.step} steps already, which is more than {self.total}",
                "Give more --steps or --epochs.",
            )

    def saved(self, step: int, path: str) -> None:
        """Note a checkpoint after ``step`` steps."""
        self.step, self.checkpoint = step, path
        self.checkpoints.append({"step": step, "path": path})

    def write(self, path: Path) -> None:
        """Put it into a file that is whole at every moment.

        Raises:
            CommandError: that cannot be done.
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
        """Raises: CommandError: there is no such file, or it is none of ours."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CommandError(
                f"cannot read the run file {path}: {error.strerror}",
                "Give --resume the file an earlier run wrote, or the tinker:// path of a checkpoint of it.",
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

    def label(self) -> Dict[str, str]:
        """Metadata for the server's run, from which :meth:`from_label` makes this again."""
        content = {name: getattr(self, name) for name in ("sha256", "steps", "epochs")}
        content["options"] = asdict(self.options)
        return {_LABEL: json.dumps(content, separators=(",", ":"))}

    @classmethod
    def from_label(cls, path: str, metadata: Optional[Mapping[str, str]]) -> TrainRun:
        """The run as it was when the checkpoint at ``path`` was saved.

        Args:
            metadata: That of the server's run.

        Raises:
            CommandError: it was not saved by this command.
        """
        match = _CHECKPOINT.match(path)
        if match is None or _LABEL not in (metadata or {}):
            raise CommandError(
                f"{path} was not saved by this command, so the step it was saved at is not known",
                "Resume from the run file, or from a path such as tinker://RUN/weights/step-000100.",
            )
        assert metadata is not None
        try:
            content = json.loads(metadata[_LABEL])
            options = TrainOptions(**content["options"])
            run = cls(options, run_ids=[match.group(1)])
            run.sha256, run.steps, run.epochs = content["sha256"], content["steps"], content["epochs"]
        except (ValueError, TypeError, KeyError) as error:
            raise CommandError(
                f"what the server keeps of the run of {path} cannot be read: {error}"
            ) from None
        run.saved(int(match.group(2)), path)
        return run


def differences(run: TrainOptions, given: Mapping[str, Any]) -> List[str]:
    """In words, each option of ``given`` that is not as in ``run``."""
    return [
        f"--{name.replace('_', '-')}: {value} is given, the run has {getattr(run, name)}"
        for name, value in given.items()
        if value != getattr(run, name)
    ]
