"""``tinkex-sync checkpoint``: what was saved."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, Optional, Tuple

import click

from .connections import connected_rest
from .formats import format_size, format_time
from .groups import Group
from .output import CommandError, Output, pass_output, wire_fields
from .paging import collect, counted, not_shown

if TYPE_CHECKING:
    from ..checkpoints.download import Progress
    from ..types import Checkpoint

__all__ = ["checkpoint", "split"]

_PAGE = 1000
_SCHEME = "tinker://"
_EXAMPLE = "tinker://run-id/weights/0001"


@click.group(cls=Group)
def checkpoint() -> None:
    """List, publish, delete and download checkpoints."""


def split(path: str) -> Tuple[str, str]:
    """Run and checkpoint of a path.

    Raises:
        CommandError: it is not ``tinker://RUN/KIND/NAME``.
    """
    from ..validation import split_checkpoint_path

    if not path.startswith(_SCHEME):
        raise CommandError(
            f"Invalid checkpoint path: {path}", f"Checkpoint path must be in the format: {_EXAMPLE}"
        )
    try:
        run, name = split_checkpoint_path(path)
    except ValueError:
        name = ""
    if name.partition("/")[0] not in ("weights", "sampler_weights", "checkpoints") or "/" not in name:
        raise CommandError(
            f"Invalid checkpoint path: {path}", f"Checkpoint paths should be in the format: {_EXAMPLE}"
        )
    return run, name


def _size(found: Checkpoint) -> str:
    return "N/A" if found.size_bytes is None else format_size(found.size_bytes)


def _yes(value: bool) -> str:
    return "Yes" if value else "No"


@checkpoint.command("list")
@click.option("--run-id", help="Only those of this training run.")
@click.option(
    "--limit", type=int, default=20, show_default=True, help="Most to show; 0 shows all. Not with --run-id."
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
        counted(len(checkpoints), "checkpoint") + of_run + not_shown(len(checkpoints), total),
        ("Checkpoint ID", "Type", "Size", "Public", "Created", "Path"),
        [
            (
                found.checkpoint_id,
                found.checkpoint_type,
                _size(found),
                _yes(found.public),
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
    run_id, _ = split(checkpoint_path)
    with connected_rest(output) as rest:
        listed = rest.list_checkpoints(run_id).checkpoints
    found = next((one for one in listed if one.tinker_path == checkpoint_path), None)
    if found is None:
        raise CommandError(f"Checkpoint not found: {checkpoint_path}")
    rows = [
        ("Checkpoint ID", found.checkpoint_id),
        ("Type", found.checkpoint_type),
        ("Tinker Path", found.tinker_path),
        *([("Size", _size(found))] if found.size_bytes is not None else []),
        ("Public", _yes(found.public)),
        ("Created", format_time(found.time)),
        ("Training Run ID", run_id),
    ]
    output.result(wire_fields(found), f"Checkpoint: {found.checkpoint_id}", ("Property", "Value"), rows)


@checkpoint.command()
@click.argument("checkpoint_path")
@pass_output
def publish(output: Output, checkpoint_path: str) -> None:
    """Let anyone read a checkpoint."""
    split(checkpoint_path)
    with connected_rest(output) as rest:
        rest.publish_checkpoint_from_tinker_path(checkpoint_path)


@checkpoint.command()
@click.argument("checkpoint_path")
@pass_output
def unpublish(output: Output, checkpoint_path: str) -> None:
    """Take the permission to read a checkpoint back."""
    split(checkpoint_path)
    with connected_rest(output) as rest:
        rest.unpublish_checkpoint_from_tinker_path(checkpoint_path)


def _confirmed(question: str) -> bool:
    """Ask on stderr; no answer at all is an abort."""
    # click 8.1 puts a part of its own prompt on stdout, which belongs to the results.
    while True:
        click.echo(f"{question} [y/N]: ", nl=False, err=True)
        answer = sys.stdin.readline()
        if not answer:
            raise click.Abort
        given = answer.strip().lower()
        if given in ("", "n", "no", "y", "yes"):
            return given in ("y", "yes")
        click.echo("Error: invalid input", err=True)


@checkpoint.command()
@click.argument("checkpoint_paths", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@pass_output
def delete(output: Output, checkpoint_paths: Tuple[str, ...], yes: bool) -> None:
    """Delete checkpoints for good."""
    for path in checkpoint_paths:
        split(path)
    if not yes:
        output.note(f"Will delete {len(checkpoint_paths)} checkpoint(s):")
        for path in checkpoint_paths:
            output.note(f"  - {path}")
        output.note("\nWARNING: This action is permanent and cannot be undone.")
        if not _confirmed(f"Are you sure you want to delete {len(checkpoint_paths)} checkpoint(s)?"):
            output.note("Deletion cancelled.")
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


@contextmanager
def download_progress(output: Output) -> Iterator[Progress]:
    """What to hand to ``download_checkpoint``: a bar on a terminal, a line a phase elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = output.stderr()
    texts = {
        "building": "The server is putting the archive together",
        "downloading": "Downloading archive",
        "unpacking": "Extracting archive",
    }
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)
        shown = ""

        def tell(phase: str, done: float, total: Optional[float]) -> None:
            nonlocal shown
            waited = f", waiting for {done:.0f} s" if phase == "building" else ""
            if phase != shown and (phase == "building" or not console.is_terminal):
                output.note(texts[phase] + ("; it will be fetched when it is ready" if waited else ""))
            shown = phase
            if phase == "downloading":
                bars.update(task, description=texts[phase], completed=done, total=total)
            else:
                bars.update(task, description=texts[phase] + waited)

        yield tell


@checkpoint.command()
@click.argument("checkpoint_path")
@click.option(
    "-o",
    "--output",
    "parent",
    metavar="PATH",
    type=click.Path(file_okay=False),
    help="Folder to put it in; made if not there.",
)
@click.option("--force", is_flag=True, help="Replace what was downloaded before.")
@pass_output
def download(output: Output, checkpoint_path: str, parent: Optional[str], force: bool) -> None:
    """Fetch a checkpoint and unpack it into a folder named after it."""
    from ..checkpoints.download import download_checkpoint, folder_name

    split(checkpoint_path)
    target = (Path.cwd() if parent is None else Path(parent)) / folder_name(checkpoint_path)
    if target.exists() and not force:
        raise CommandError(
            f"Target directory already exists: {target}",
            "Use --force to overwrite or choose a different output directory.",
        )
    with connected_rest(output) as rest, download_progress(output) as progress:
        made = download_checkpoint(rest, checkpoint_path, target, force=force, progress=progress)
    output.result(
        {
            "checkpoint_path": checkpoint_path,
            "destination": str(target),
            **({"file_size_bytes": made.size_bytes} if made.size_bytes else {}),
        },
        f"Checkpoint Download: {checkpoint_path}",
        ("Property", "Value"),
        [
            ("Checkpoint Path", checkpoint_path),
            ("Archive Size", format_size(made.size_bytes)),
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
@click.option("--public", is_flag=True, help="A repository that is made is visible to all; default: private.")
@click.option("--revision", help="Branch to push to; default: main.")
@click.option("--message", help="Of the commit.")
@pass_output
def push_hf(
    output: Output,
    checkpoint_path: str,
    repository: str,
    public: bool,
    revision: Optional[str],
    message: Optional[str],
) -> None:
    """Put a checkpoint into a model repository of the Hugging Face hub, which is made if it is not there.

    The hub's key is HF_TOKEN, or what "hf auth login" has stored. A model card is written unless the checkpoint has
    one.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise CommandError(
            f"push-hf needs huggingface_hub, which is not installed ({error}).",
            'Install it with: pip install "tinkex-sync[hub]"',
        ) from error
    from ..checkpoints.download import download_checkpoint

    split(checkpoint_path)
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise CommandError(
            f"Invalid repository: {repository}", "Give it as OWNER/NAME, such as me/my-adapter."
        )
    hub = huggingface_hub.HfApi()
    with tempfile.TemporaryDirectory() as folder, connected_rest(output) as rest:
        target = Path(folder, "checkpoint")
        with download_progress(output) as progress:
            download_checkpoint(rest, checkpoint_path, target, progress=progress)
        card = target / "README.md"
        if not card.exists():
            known = rest.get_weights_info_by_tinker_path(checkpoint_path)
            rank = f" of rank {known.lora_rank}" if known.lora_rank else ""
            title = repository.partition("/")[2]
            text = _CARD.format(base_model=known.base_model, title=title, rank=rank, path=checkpoint_path)
            card.write_text(text, encoding="utf-8")
        output.note(f"Pushing {sum(path.is_file() for path in target.rglob('*'))} files to {repository}")
        try:
            hub.create_repo(repository, private=not public, exist_ok=True)
            if revision is not None:
                hub.create_branch(repository, branch=revision, exist_ok=True)
            done = hub.upload_folder(
                repo_id=repository,
                folder_path=str(target),
                revision=revision,
                commit_message=message or f"Checkpoint {checkpoint_path}",
            )
        except (OSError, ValueError) as error:
            # All of the hub's own errors are one or the other.
            raise CommandError(
                f"The hub refused: {str(error).strip() or type(error).__name__}",
                "Check that HF_TOKEN may write there: https://huggingface.co/settings/tokens",
            ) from error
    output.result(
        {
            "checkpoint_path": checkpoint_path,
            "repository": repository,
            "commit": done.oid,
            "url": done.commit_url,
        },
        f"Checkpoint Push: {checkpoint_path}",
        ("Property", "Value"),
        [("Checkpoint Path", checkpoint_path), ("Repository", repository), ("Commit", done.commit_url)],
    )
