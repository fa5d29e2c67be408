"""``tinkex-sync demo``: fine-tune and sample a tiny model on the embedded server, and show the loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import click

from ..files import read_text
from ..groups import Command
from ..output import CommandError, Output, pass_output, visible_text
from .display import supports_characters

if TYPE_CHECKING:
    from rich.console import Console

    from ...clients import SamplingClient, TrainingClient

__all__ = ["demo"]

_MODEL = "tinkex/tiny"
_RANK = 32
_SEED = 1
#: Longest training, in seconds.
_BUILT_IN_STORY_SECONDS = 32.0
_FILE_SECONDS = 45.0
_NUM_SAMPLES = 200
_PROMPT_TOKENS = 24
_CONTINUATION_TOKENS = 24
#: Tokens of the sample before training and of the one after it.
_SHOWN_TOKENS = 160
#: Shortest text, in bytes. A shorter text cannot be learned and continued.
_SHORTEST = 2 * (_PROMPT_TOKENS + _CONTINUATION_TOKENS)


@click.command(cls=Command)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@pass_output
def demo(output: Output, file: Optional[Path]) -> None:
    """Fine-tune a tiny model on FILE and sample from it.

    Without FILE it learns a short built-in story. Everything runs on this machine, on the embedded server. Training
    on a long FILE ends after 45 seconds.
    """
    text = read_text(Path(__file__).with_name("story.txt") if file is None else file)
    size = len(text.encode("utf-8"))
    if size < _SHORTEST:
        raise CommandError(f"{file} has only {size} bytes of text", f"Give at least {_SHORTEST}.")
    console = output.stderr() if output.json else output.stdout()
    result = _Demo(console, text, file).run()
    path = Path(__file__).with_name("story.txt") if file is None else file
    settings = ("--steps", "20", "--learning-rate", "0.005", "--context", "64")
    if output.json:
        output.document(result)
    # The demo's server has ended, so this command has one of its own.
    local = Output()
    local.base_url = "local"
    local.next_command("train", str(path), "--model", _MODEL, *settings)


class _Demo:
    """One run of the demo. It prints to ``console`` while it runs."""

    def __init__(self, console: Console, text: str, file: Optional[Path]) -> None:
        from ...tokenizers.byte_tokenizer import ByteTokenizer

        self._console = console
        self._text = text
        self._file = file
        self._tokenizer = ByteTokenizer()
        self._tokens = self._tokenizer.encode(text)

    def run(self) -> Dict[str, Any]:
        """Train, sample, and return the figures as JSON values."""
        from ...clients import ServiceClient
        from ...local import LocalServer

        self._print("Starting the embedded server ...")
        with LocalServer() as server, ServiceClient(base_url=server.base_url, api_key="local") as service:
            self._print(f"It listens on {server.base_url}. Its model is {_MODEL}, and each byte is one token.")
            training = service.create_lora_training_client(_MODEL, rank=_RANK, seed=_SEED)
            return self._train_and_sample(training)

    def _train_and_sample(self, training: TrainingClient) -> Dict[str, Any]:
        from .training import train

        decode = self._tokenizer.decode
        first_word_end = self._text.encode("utf-8").find(b" ", _PROMPT_TOKENS)
        prompt = self._tokens[: max(_PROMPT_TOKENS, first_word_end)][: 4 * _PROMPT_TOKENS]
        before = _sample(training.save_weights_and_get_sampling_client(), prompt)
        self._quote("Before training it continues like this:", decode(prompt), decode(before))
        name = "the built-in story" if self._file is None else str(self._file)
        self._print(f"\nFine-tuning on {name}, {len(self._tokens)} tokens:")
        seconds = _BUILT_IN_STORY_SECONDS if self._file is None else _FILE_SECONDS
        progress = train(self._console, training, self._tokens, seconds, _SEED)
        if progress.is_out_of_time and self._file is not None:
            self._print(f"Stopped after {seconds:.0f} s. The loss would fall further.")
        first, last = progress.first_loss, progress.recent_loss
        share = f"1/{first / last:.0f} of the first" if last > 0 else "zero"
        self._print(f"First loss per token: {first:.3f}")
        self._print(f"Last loss per token:  {last:.3f} ({share}, after {len(progress.losses)} steps)")
        sampler = training.save_weights_and_get_sampling_client()
        after = _sample(sampler, prompt)
        self._quote("\nNow it continues like this:", decode(prompt), decode(after))
        exact = self._count_exact_samples(sampler)
        self._print(f"{exact} of {_NUM_SAMPLES} samples continue exactly as the text does.")
        return {
            "first_loss": first,
            "last_loss": last,
            "steps": len(progress.losses),
            "prompt": decode(prompt),
            "sample_before": decode(before),
            "sample_after": decode(after),
            "samples": _NUM_SAMPLES,
            "samples_like_the_text": exact,
        }

    def _print(self, text: str) -> None:
        self._console.print(visible_text(text), soft_wrap=True)

    def _quote(self, title: str, prompt: str, completion: str) -> None:
        # An untrained model generates control characters too.
        printable = "".join(mark if mark.isprintable() or mark == "\n" else "·" for mark in completion)
        if not supports_characters(self._console, "·…█"):
            printable = printable.encode("ascii", "replace").decode()
            prompt = prompt.encode("ascii", "replace").decode()
        self._print(title)
        self._print(f"  {prompt}[{printable}]".replace("\n", "\n  "))

    def _count_exact_samples(self, sampler: SamplingClient) -> int:
        """Continue the text at 200 places and count the samples that are equal to the text."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from ... import types

        tokens, is_plain = self._tokens, not self._console.is_terminal
        last_start = len(tokens) - _PROMPT_TOKENS - _CONTINUATION_TOKENS
        starts = [index * last_start // (_NUM_SAMPLES - 1) for index in range(_NUM_SAMPLES)]
        prompts = (types.ModelInput.from_ints(tokens[start : start + _PROMPT_TOKENS]) for start in starts)
        params = types.SamplingParams(max_tokens=_CONTINUATION_TOKENS, temperature=0.3, seed=_SEED)
        exact = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._console, disable=is_plain) as bars:
            task = bars.add_task("Sampling", total=_NUM_SAMPLES)
            responses = sampler.sample_many(prompts, sampling_params=params)
            for done, (start, response) in enumerate(zip(starts, responses), start=1):
                end = start + _PROMPT_TOKENS
                expected = tokens[end : end + _CONTINUATION_TOKENS]
                exact += list(response.sequences[0].tokens) == expected
                bars.advance(task)
                if is_plain and done % 50 == 0:
                    self._print(f"  {done} of {_NUM_SAMPLES} samples")
        return exact


def _sample(sampler: SamplingClient, prompt: List[int]) -> List[int]:
    from ... import types

    params = types.SamplingParams(max_tokens=_SHOWN_TOKENS, temperature=0.3, seed=_SEED)
    response = sampler.sample(types.ModelInput.from_ints(prompt), 1, params)
    return list(response.sequences[0].tokens)
