"""``tinkex-sync checkpoint``: list, show, publish, delete, download and push checkpoints."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Sequence, Tuple, Union

import click

from .connections import connected_rest
from .formats import format_size, format_time
from .groups import Group
from .output import CommandError, Output, pass_output, wire_fields
from .paging import collect, count_text, hidden_count_text

if TYPE_CHECKING:
    from ..checkpoints.download import Progress
    from ..clients.rest import RestClient
    from ..types import Checkpoint, TrainingRun, WeightsInfoResponse

__all__ = ["checkpoint"]

_PAGE = 1000
_EXAMPLE = "tinker://run-id/weights/0001"


@click.group(cls=Group)
def checkpoint() -> None:
    """List, publish, delete and download checkpoints."""


def _parse_path(path: str) -> Tuple[str, str]:
    """Split the path of a checkpoint into the id of its run and its name, such as ``weights/0001``.

    The paths of some servers have no kind, as in ``tinker://RUN/NAME``.

    Raises:
        CommandError: ``path`` has neither form.
    """
    from ..validation import split_checkpoint_path

    try:
        run, name = split_checkpoint_path(path)
    except ValueError:
        run, name = "", ""
    kind, separator, _ = name.partition("/")
    if not name or (separator and kind not in ("weights", "sampler_weights", "checkpoints")):
        raise _invalid_path(path)
    return run, name


def _invalid_path(path: str) -> CommandError:
    return CommandError(f"Invalid checkpoint path: {path}", f"Checkpoint path must be in the format: {_EXAMPLE}")


def _size_text(found: Checkpoint) -> str:
    return "N/A" if found.size_bytes is None else format_size(found.size_bytes)


def _yes_no(value: bool) -> str:
    return "Yes" if value else "No"


@checkpoint.command("list")
@click.option("--run-id", help="List only the checkpoints of this training run.")
@click.option(
    "--limit",
    type=int,
    default=20,
    show_default=True,
    help="Largest number of checkpoints to show. 0 shows all. It has no effect with --run-id.",
)
@pass_output
def list_checkpoints(output: Output, run_id: Optional[str], limit: int) -> None:
    """List checkpoints."""
    with connected_rest(output) as rest:
        if run_id is not None:
            checkpoints: List[Checkpoint] = list(rest.list_checkpoints(run_id).checkpoints)
            total, head = len(checkpoints), {"run_id": run_id}
        else:
            checkpoints, total = collect(rest.list_user_checkpoints, "checkpoints", limit, _PAGE)
            head = {}
    of_run = "" if run_id is None else f" for run {run_id}"
    output.result(
        {**head, "checkpoints": [wire_fields(found) for found in checkpoints]},
        count_text(len(checkpoints), "checkpoint") + of_run + hidden_count_text(len(checkpoints), total),
        ("Checkpoint ID", "Type", "Size", "Public", "Created", "Path"),
        [
            (
                found.checkpoint_id,
                found.checkpoint_type,
                _size_text(found),
                _yes_no(found.public),
                format_time(found.time),
                found.tinker_path,
            )
            for found in checkpoints
        ],
    )


@checkpoint.command()
@click.argument("checkpoint_path")
@pass_output
def info(output: Output, checkpoint_path: str) -> None:
    """Show one checkpoint."""
    run_id, name = _parse_path(checkpoint_path)
    if "/" not in name:
        # As in the official SDK. The list of the run shows the complete paths.
        raise _invalid_path(checkpoint_path)
    with connected_rest(output) as rest:
        listed = rest.list_checkpoints(run_id).checkpoints
    found = next((entry for entry in listed if entry.tinker_path == checkpoint_path), None)
    if found is None:
        raise CommandError(f"Checkpoint not found: {checkpoint_path}")
    rows = [
        ("Checkpoint ID", found.checkpoint_id),
        ("Type", found.checkpoint_type),
        ("Tinker Path", found.tinker_path),
        *([("Size", _size_text(found))] if found.size_bytes is not None else []),
        ("Public", _yes_no(found.public)),
        ("Created", format_time(found.time)),
        ("Training Run ID", run_id),
    ]
    output.result(wire_fields(found), f"Checkpoint: {found.checkpoint_id}", ("Property", "Value"), rows)


@checkpoint.command()
@click.argument("checkpoint_path")
@pass_output
def publish(output: Output, checkpoint_path: str) -> None:
    """Make a checkpoint readable by everyone."""
    _parse_path(checkpoint_path)
    with connected_rest(output) as rest:
        rest.publish_checkpoint_from_tinker_path(checkpoint_path)
    _print_visibility(output, checkpoint_path, is_public=True)


@checkpoint.command()
@click.argument("checkpoint_path")
@pass_output
def unpublish(output: Output, checkpoint_path: str) -> None:
    """Make a published checkpoint private again."""
    _parse_path(checkpoint_path)
    with connected_rest(output) as rest:
        rest.unpublish_checkpoint_from_tinker_path(checkpoint_path)
    _print_visibility(output, checkpoint_path, is_public=False)


def _print_visibility(output: Output, path: str, is_public: bool) -> None:
    if output.json:
        output.document({"path": path, "public": is_public})
    else:
        output.note(f"{path} is {'readable by everyone' if is_public else 'private'}.")


def _confirmed(question: str) -> bool:
    """Ask a question on standard error and return whether the answer is yes.

    Raises:
        click.Abort: Standard input has ended.
    """
    # click.confirm of click 8.1 writes part of the prompt to standard output, which is reserved for results.
    while True:
        click.echo(f"{question} [y/N]: ", nl=False, err=True)
        answer = sys.stdin.readline()
        if not answer:
            raise click.Abort
        choice = answer.strip().lower()
        if choice in ("", "n", "no", "y", "yes"):
            return choice in ("y", "yes")
        click.echo("Error: invalid input", err=True)


@checkpoint.command()
@click.argument("checkpoint_paths", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Delete without asking.")
@pass_output
def delete(output: Output, checkpoint_paths: Tuple[str, ...], yes: bool) -> None:
    """Delete checkpoints permanently."""
    for path in checkpoint_paths:
        _parse_path(path)
    if not yes:
        output.note(f"Will delete {len(checkpoint_paths)} checkpoint(s):")
        for path in checkpoint_paths:
            output.note(f"  - {path}")
        output.note("\nWARNING: This action is permanent and cannot be undone.")
        if not _confirmed(f"Are you sure you want to delete {len(checkpoint_paths)} checkpoint(s)?"):
            output.note("Deletion cancelled.")
            _print_deleted(output, ())
            return
    deleted = 0
    with connected_rest(output) as rest:
        try:
            for path in checkpoint_paths:
                rest.delete_checkpoint_from_tinker_path(path)
                deleted += 1
        finally:
            if len(checkpoint_paths) > 1:
                output.note(f"Deleted {deleted} of {len(checkpoint_paths)} checkpoints.")
            _print_deleted(output, checkpoint_paths[:deleted])


def _print_deleted(output: Output, paths: Sequence[str]) -> None:
    if output.json:
        output.document({"deleted": list(paths)})


@contextmanager
def _download_progress(output: Output) -> Iterator[Progress]:
    """Yield a progress callback for ``download_checkpoint``: a bar on a terminal, elsewhere one line per phase."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = output.stderr()
    texts = {
        "building": "The server is building the archive",
        "downloading": "Downloading archive",
        "unpacking": "Extracting archive",
    }
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)
        shown_phase = ""

        def show(phase: str, done: float, total: Optional[float]) -> None:
            nonlocal shown_phase
            if phase != shown_phase and (phase == "building" or not console.is_terminal):
                output.note(texts[phase])
            shown_phase = phase
            if phase == "downloading":
                bars.update(task, description=texts[phase], completed=done, total=total)
            else:
                waited = f", waiting for {done:.0f} s" if phase == "building" else ""
                bars.update(task, description=texts[phase] + waited)

        yield show


@checkpoint.command()
@click.argument("checkpoint_path")
@click.option(
    "-o",
    "--output",
    "parent",
    metavar="PATH",
    type=click.Path(file_okay=False),
    help="Parent folder of the new folder. It is created if it does not exist.",
)
@click.option("--force", is_flag=True, help="Replace the folder of an earlier download.")
@pass_output
def download(output: Output, checkpoint_path: str, parent: Optional[str], force: bool) -> None:
    """Download a checkpoint and extract it into a folder named after it."""
    from ..checkpoints.download import download_checkpoint, folder_name

    _parse_path(checkpoint_path)
    target = (Path.cwd() if parent is None else Path(parent)) / folder_name(checkpoint_path)
    if target.exists() and not force:
        raise CommandError(
            f"Target directory already exists: {target}",
            "Use --force to overwrite or choose a different output directory.",
        )
    with connected_rest(output) as rest, _download_progress(output) as progress:
        downloaded = download_checkpoint(rest, checkpoint_path, target, force=force, progress=progress)
    output.result(
        {
            "checkpoint_path": checkpoint_path,
            "destination": str(target),
            **({"file_size_bytes": downloaded.size_bytes} if downloaded.size_bytes else {}),
        },
        f"Checkpoint Download: {checkpoint_path}",
        ("Property", "Value"),
        [
            ("Checkpoint Path", checkpoint_path),
            ("Archive Size", format_size(downloaded.size_bytes)),
            ("Extracted to", str(target)),
        ],
    )


_CARD = """\
---
base_model: {base_model}
library_name: peft
tags:
- lora
---

# {title}

A LoRA adapter for `{base_model}`{rank}, saved as `{path}`.
"""


@checkpoint.command("push-hf")
@click.argument("checkpoint_path")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--public", is_flag=True, help="Create a public repository. Default: private.")
@click.option("--revision", help="Branch to push to. Default: main.")
@click.option("--message", help="Commit message. Default: the path of the checkpoint.")
@pass_output
def push_hf(
    output: Output, checkpoint_path: str, repository: str, public: bool, revision: Optional[str], message: Optional[str]
) -> None:
    """Push a checkpoint to a model repository of the Hugging Face hub. The repository is created if necessary.

    The hub's key is HF_TOKEN, or the one that "hf auth login" stored. A model card is written unless the checkpoint
    contains one.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CommandError(
            f"push-hf needs huggingface_hub, which is not installed ({error}).",
            'Install it with: pip install "tinkex-sync[hub]"',
        ) from error
    from ..checkpoints.download import download_checkpoint

    _parse_path(checkpoint_path)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise CommandError(f"Invalid repository: {repository}", "Give it as OWNER/NAME, such as me/my-adapter.")
    with tempfile.TemporaryDirectory() as parent, connected_rest(output) as rest:
        folder = Path(parent, "checkpoint")
        with _download_progress(output) as progress:
            download_checkpoint(rest, checkpoint_path, folder, progress=progress)
        _write_model_card(rest, folder, checkpoint_path, repository.partition("/")[2])
        output.note(f"Pushing {sum(path.is_file() for path in folder.rglob('*'))} files to {repository}")
        message = message or f"Checkpoint {checkpoint_path}"
        commit = _push_folder(huggingface_hub.HfApi(), folder, repository, public, revision, message)
    output.result(
        {"checkpoint_path": checkpoint_path, "repository": repository, "commit": commit.oid, "url": commit.commit_url},
        f"Checkpoint Push: {checkpoint_path}",
        ("Property", "Value"),
        [("Checkpoint Path", checkpoint_path), ("Repository", repository), ("Commit", commit.commit_url)],
    )


def _write_model_card(rest: RestClient, folder: Path, checkpoint_path: str, title: str) -> None:
    """Write ``README.md`` into the folder of a checkpoint, unless it exists."""
    card = folder / "README.md"
    if card.exists():
        return
    weights = _adapter_of(rest, checkpoint_path)
    rank = f" of rank {weights.lora_rank}" if weights.lora_rank else ""
    text = _CARD.format(base_model=weights.base_model, title=title, rank=rank, path=checkpoint_path)
    card.write_text(text, encoding="utf-8")


def _adapter_of(rest: RestClient, checkpoint_path: str) -> Union[WeightsInfoResponse, TrainingRun]:
    """Return a record with the base model and the rank of a checkpoint.

    Some servers refuse the paths of weights for sampling in weights_info. Then the record of the run has both.
    """
    from ..errors import APIStatusError

    try:
        return rest.get_weights_info_by_tinker_path(checkpoint_path)
    except APIStatusError:
        return rest.get_training_run_by_tinker_path(checkpoint_path)


def _push_folder(hub: Any, folder: Path, repository: str, public: bool, revision: Optional[str], message: str) -> Any:
    """Push a folder in one commit and return the hub's description of the commit.

    Raises:
        CommandError: The hub returned an error.
    """
    try:
        hub.create_repo(repository, private=not public, exist_ok=True)
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        return hub.upload_folder(repo_id=repository, folder_path=str(folder), revision=revision, commit_message=message)
    except (OSError, ValueError) as error:
        # Every error class of huggingface_hub is a subclass of one of the two.
        raise CommandError(
            f"The hub returned an error: {str(error).strip() or type(error).__name__}",
            "Check that HF_TOKEN has write permission: https://huggingface.co/settings/tokens",
        ) from error
