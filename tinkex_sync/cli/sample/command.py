"""``tinkex-sync sample``: replies to a file of prompts, each once, however often it is interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import click

from ..connections import connected_service
from ..groups import Command
from ..output import CommandError, Output, pass_output

if TYPE_CHECKING:
    from ...clients import SamplingClient, ServiceClient
    from ...futures import Future
    from .prompts import Prompt, PromptFile

__all__ = ["Drawing", "sample"]

_SCHEME = "tinker://"


@click.command(cls=Command)
@click.argument("prompts", metavar="PROMPTS.jsonl", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "replies",
    metavar="REPLIES.jsonl",
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="File for the replies; existing replies are kept. '-' is standard output, which cannot be continued.",
)
@click.option("-m", "--model", required=True, help="A base model, or the tinker:// path of saved weights.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest reply."
)
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--top-k", type=int, default=-1, show_default=True, help="Draw from the k likeliest; -1: all.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest that make up this probability.",
)
@click.option("--seed", type=int, help="Of the random choice; the same for every prompt.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End a reply before this text; repeatable.")
@click.option(
    "-n",
    "--num-samples",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Completions of each prompt.",
)
@click.option("--logprobs", is_flag=True, help="Also write the log probability of each token.")
@click.option("--tokenizer", metavar="ID|PATH", help="Default: the one that belongs to the model.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Most prompts on their way at once.",
)
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="For each prompt."
)
@click.option(
    "--on-error",
    type=click.Choice(["continue", "stop"]),
    default="continue",
    show_default=True,
    help="When one prompt fails.",
)
@pass_output
def sample(
    output: Output,
    /,
    prompts: Path,
    replies: Path,
    model: str,
    tokenizer: Optional[str],
    concurrency: int,
    timeout: Optional[float],
    on_error: str,
    **drawing: Any,
) -> None:
    """Answer every prompt of PROMPTS.jsonl once.

    Each line is an object with "prompt" (text, or a list of token ids) and, if you like, "id". Replies come in
    any order; "index" is the prompt's place, from 0. Run the same command again to go on after an interruption
    or a crash: nothing is lost or repeated, and prompts that failed are tried again.
    """
    from ...concurrency.clock import Clock
    from .loop import answer_all
    from .progress import shown_progress
    from .prompts import PromptFile
    from .replies import ReplyFile, ReplyStream, require_plain_file

    if drawing["top_k"] < 1 and drawing["top_k"] != -1:
        raise click.BadParameter(f"{drawing['top_k']} is neither -1 nor at least 1.", param_hint="'--top-k'")
    drawing["stop"] = list(drawing["stop"]) or None
    to_stdout = str(replies) == "-"
    if not to_stdout:
        require_plain_file(replies)
        if replies.exists() and prompts.exists() and replies.samefile(prompts):
            raise CommandError(f"{replies} is the file of prompts", "Give another output with -o.")
    asked = PromptFile(prompts)
    run = {
        "prompts_sha256": asked.fingerprint,
        "prompts": asked.count,
        "model": model,
        "tokenizer": tokenizer,
        **drawing,
    }
    clock = Clock()
    began = clock.time()
    written = ReplyStream() if to_stdout else ReplyFile(replies, run, clock)
    before = written.answered
    failed = 0
    try:
        if before:
            output.note(f"{before} of {asked.count} prompts have replies already.")
        if before < asked.count:
            with (
                shown_progress(output, clock, asked.count, before) as progress,
                connected_service(output, plugins=[progress]) as service,
            ):
                texts = _Texts(output, service, model, tokenizer, asked)
                drawn = Drawing(service, texts, model, drawing, timeout)
                failed = answer_all(drawn, asked, written, progress, concurrency, on_error == "stop")
    except (Exception, KeyboardInterrupt):
        remedy = "" if to_stdout else " Run the same command again to go on."
        output.note(f"{written.answered} of {asked.count} prompts have replies in {written.path}.{remedy}")
        raise
    finally:
        written.close()
    summary = {
        "prompts": asked.count,
        "answered": written.answered,
        "failed": failed,
        "new": written.answered - before,
        "seconds": round(clock.time() - began, 3),
        "output": str(written.path),
    }
    rows = [(name.capitalize(), str(value)) for name, value in summary.items()]
    if to_stdout:
        output.note(f"{written.answered} of {asked.count} prompts have replies.")
    else:
        output.result(summary, f"Replies to {prompts}", ("Property", "Value"), rows)
    if failed:
        remedy = "" if to_stdout else " Run the same command again to retry them."
        output.note(f"{failed} prompts failed; their lines contain the reasons.{remedy}")
        click.get_current_context().exit(1)


class _Texts:
    """From text to tokens and back, where the tokenizer can be had."""

    def __init__(
        self, output: Output, service: ServiceClient, model: str, tokenizer: Optional[str], asked: PromptFile
    ) -> None:
        from ...errors import MissingExtraError
        from ...tokenizers.loading import TokenizerError

        self._tokenizer: Any = None
        try:
            self._tokenizer = _tokenizer(service, model, tokenizer)
        except (TokenizerError, MissingExtraError) as error:
            if asked.texts or tokenizer is not None:
                raise CommandError(str(error), "Or give another with --tokenizer.") from None
            output.note(f"Replies hold tokens only, no text: {error}")

    def encode(self, prompt: Prompt) -> List[int]:
        content = prompt.content
        return content if isinstance(content, list) else list(self._tokenizer.encode(content))

    def decode(self, reply: Any) -> Optional[List[str]]:
        if self._tokenizer is None:
            return None
        try:
            return [self._tokenizer.decode(list(sequence.tokens)) for sequence in reply.sequences]
        except Exception as error:  # the Rust libraries raise bare Exception
            raise CommandError(
                f"the tokenizer cannot read what the model writes: {error}",
                "It is not this model's: give the right one with --tokenizer.",
            ) from error


def _tokenizer(service: ServiceClient, model: str, given: Optional[str]) -> Any:
    from ...errors import APIStatusError
    from ...tokenizers.loading import TokenizerError, choose_tokenizer, load_tokenizer

    if given is not None:
        return load_tokenizer(given)
    base = model
    if model.startswith(_SCHEME):
        try:
            base = service.create_rest_client().get_weights_info_by_tinker_path(model).base_model
        except APIStatusError as error:
            raise TokenizerError(
                f"the server does not say which model {model} belongs to: {error}"
            ) from error
    return load_tokenizer(choose_tokenizer(base).id)


class Drawing:
    """Submits prompts, all in the same way."""

    def __init__(
        self,
        service: ServiceClient,
        texts: _Texts,
        model: str,
        drawing: Dict[str, Any],
        timeout: Optional[float],
    ) -> None:
        from ...types import SamplingParams

        fields = dict(drawing)
        self.texts = texts
        self.logprobs: bool = fields.pop("logprobs")
        self._num_samples: int = fields.pop("num_samples")
        self._params = SamplingParams(**fields)
        self._timeout = timeout
        path = model if model.startswith(_SCHEME) else None
        self._sampler: SamplingClient = service.create_sampling_client(
            model_path=path, base_model=None if path else model
        )

    def submit(self, prompt: Prompt) -> Future[Any]:
        """Never waits.

        Raises:
            ValueError: the prompt has no tokens.
        """
        from ...types import ModelInput

        tokens = self.texts.encode(prompt)
        if not tokens:
            raise ValueError("the prompt is empty: the tokenizer makes no token of it")
        return self._sampler.submit_sample(
            ModelInput.from_ints(tokens), self._num_samples, self._params, timeout=self._timeout
        )
