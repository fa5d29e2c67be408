"""``tinkex-sync sample``: sample one response for each prompt of a file, and continue after interruptions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

import click

from ..connections import connected_service
from ..groups import Command
from ..output import CommandError, Output, pass_output
from .cluster import ENGINES, ClusterRun

if TYPE_CHECKING:
    from ...concurrency.clock import Clock
    from .prompts import PromptFile
    from .responses import ResponseFile, ResponseStream

__all__ = ["sample"]


@dataclass(frozen=True)
class _Settings:
    """The options that do not change the responses."""

    concurrency: int
    timeout: Optional[float]
    stop_on_error: bool
    is_ordered: bool


@click.command(cls=Command)
@click.argument("prompts", metavar="PROMPTS.jsonl|PROMPT")
@click.option(
    "-o",
    "--output",
    "responses",
    metavar="RESPONSES.jsonl",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File for the responses. Responses in it are kept. '-' is standard output, which cannot be continued;"
    " its format is JSON lines, whatever --format is."
    " Without it, PROMPT is one prompt, and its completion is printed.",
)
@click.option("-m", "--model", required=True, help="A base model, or the tinker:// path of saved weights.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest completion, in tokens."
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Sampling temperature. 0 selects the most likely token.",
)
@click.option(
    "--top-k", type=int, default=-1, show_default=True, help="Sample from the K most likely tokens. -1 means all."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Sample from the most likely tokens with this total probability.",
)
@click.option("--seed", type=int, help="Seed of the random choice, the same for every prompt.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End a completion before this text. Repeatable.")
@click.option(
    "-n", "--num-samples", type=click.IntRange(min=1), default=1, show_default=True, help="Completions of each prompt."
)
@click.option("--logprobs", is_flag=True, help="Write the log probability of each token too.")
@click.option("--tokenizer", metavar="ID|PATH", help="Tokenizer. Default: the tokenizer that belongs to the model.")
@click.option(
    "--ignore-keys", metavar="NAMES", help="Keys of records and messages that are not read, separated by commas."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Largest number of prompts in flight.",
)
@click.option("--ordered", is_flag=True, help="Write responses in the order of the prompts, not of their arrival.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Longest time for each prompt. Default: no limit.",
)
@click.option(
    "--on-error",
    type=click.Choice(["continue", "stop"]),
    default="continue",
    show_default=True,
    help="Whether to continue or to stop when a prompt fails.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    help="Sample on a cluster. PROMPTS is a .parquet or .jsonl file or a folder of them, and -o is a folder."
    " Needs tinkex-sync-scale.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Worker processes of --engine on this machine.",
)
@pass_output
def sample(output: Output, /, prompts: str, responses: Optional[Path], **options: Any) -> None:
    """Sample a completion of one PROMPT, or a response for every prompt of PROMPTS.jsonl.

    Without -o, the argument is a prompt ('-' reads it from standard input), and the text of its completion is printed.

    With -o, each line of the file is an object with "prompt" (text, or a list of token ids) or "messages" (a chat), and
    optionally "id" and sampling parameters of its own. '-' reads standard input. Responses are written in the order in
    which they arrive, or with --ordered in that of the prompts; "index" is the position of the prompt, from 0. To
    continue after an interruption or a crash, run the same command again. No response is lost or repeated, and failed
    prompts are sampled again.
    """
    from ..json_lines import split_names
    from .prompts import PromptFile
    from .responses import require_output
    from .single import sample_once

    if options["top_k"] < 1 and options["top_k"] != -1:
        raise click.BadParameter(f"{options['top_k']} is neither -1 nor at least 1.", param_hint="'--top-k'")
    options["stop"] = list(options["stop"]) or None
    settings = _Settings(
        options.pop("concurrency"), options.pop("timeout"), options.pop("on_error") == "stop", options.pop("ordered")
    )
    engine, workers = options.pop("engine"), options.pop("workers")
    if engine is not None:
        options.pop("ignore_keys")
        where = (engine, workers, prompts, responses)
        how = (settings.concurrency, settings.timeout, settings.stop_on_error)
        ClusterRun(*where, *how).sample(output, options)
        return
    path = Path(prompts)
    if responses is None:
        options.pop("ignore_keys")
        sample_once(output, prompts, options, settings.timeout)
        return
    if str(responses) != "-":
        require_output(responses)
        if responses.exists() and path.exists() and responses.samefile(path):
            raise CommandError(f"{responses} is the file of prompts", "Give another output with -o.")
    with PromptFile(path, split_names(options.pop("ignore_keys"))) as prompt_file:
        _Run(output, prompt_file, responses, options, settings).run()


class _Run:
    """One run of the command: it samples, and prints the summary."""

    def __init__(
        self, output: Output, prompts: PromptFile, path: Path, options: Dict[str, Any], settings: _Settings
    ) -> None:
        from ...concurrency.clock import Clock
        from .responses import ResponseFile, ResponseStream

        self._output = output
        self._prompts = prompts
        self._options = options
        self._settings = settings
        self._clock: Clock = Clock()
        self._to_stdout = str(path) == "-"
        self._responses: Union[ResponseFile, ResponseStream]
        if self._to_stdout:
            self._responses = ResponseStream()
        else:
            recorded = {"prompts_sha256": prompts.fingerprint, "prompts": prompts.count, **options}
            self._responses = ResponseFile(path, recorded, self._clock)

    def run(self) -> None:
        """Sample the prompts that have no response and print the summary; exit with status 1 if a prompt failed."""
        started, before, failed = self._clock.time(), self._responses.answered, 0
        try:
            if before:
                self._output.note(f"{before} of {self._prompts.count} prompts already have responses.")
            if before < self._prompts.count:
                failed = self._sample(before)
        except (Exception, KeyboardInterrupt):
            self._output.note(self._progress_text(" Run the same command again to continue."))
            raise
        finally:
            self._responses.close()
        self._print_summary(
            {
                "prompts": self._prompts.count,
                "answered": self._responses.answered,
                "failed": failed,
                "new": self._responses.answered - before,
                "seconds": round(self._clock.time() - started, 3),
                "output": str(self._responses.path),
            }
        )
        if failed:
            remedy = "" if self._to_stdout else " Run the same command again to sample them again."
            self._output.note(f"{failed} prompts failed; their lines contain the reasons.{remedy}")
            click.get_current_context().exit(1)

    def _sample(self, before: int) -> int:
        """Sample the prompts that have no response, and return how many failed."""
        from ...tokenizers.loading import load_tokenizer
        from .loop import SampleLoop
        from .progress import shown_progress
        from .sampler import PromptSampler, PromptTokenizer, load_tokenizer_of, open_sampler

        options, settings = dict(self._options), self._settings
        model, tokenizer_id = options.pop("model"), options.pop("tokenizer")
        with (
            shown_progress(self._output, self._clock, self._prompts.count, before) as progress,
            connected_service(self._output, plugins=[progress]) as service,
        ):
            client = open_sampler(service, model)
            load = partial(load_tokenizer_of, service, client, model)
            if tokenizer_id is not None:
                load = partial(load_tokenizer, tokenizer_id)
            is_required = tokenizer_id is not None or self._prompts.needs_tokenizer
            tokenizer = PromptTokenizer(self._output, load, is_required)
            self._prompts.check_chats(tokenizer.check)
            sampler = PromptSampler(client, tokenizer, options, settings.timeout)
            how = (settings.concurrency, settings.stop_on_error, settings.is_ordered)
            loop = SampleLoop(sampler, self._responses, progress, *how)
            loop.run(self._prompts)
        return loop.failed

    def _progress_text(self, remedy: str) -> str:
        counts = f"{self._responses.answered} of {self._prompts.count} prompts have responses"
        return f"{counts}." if self._to_stdout else f"{counts} in {self._responses.path}.{remedy}"

    def _print_summary(self, summary: Dict[str, Any]) -> None:
        if self._to_stdout:
            self._output.note(self._progress_text(""))
            return
        rows = [(name.capitalize(), str(value)) for name, value in summary.items()]
        self._output.result(summary, f"Responses to {self._prompts.name}", ("Property", "Value"), rows)
