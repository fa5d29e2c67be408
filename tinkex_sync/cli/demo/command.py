"""``tinkex-sync demo``: fine-tune and sample on the embedded server, before your eyes."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional

import click

from ..files import example, read_text, windows
from ..groups import Command
from ..output import CommandError, Output, pass_output
from .chart import chart

if TYPE_CHECKING:
    from rich.console import Console

    from ...clients import SamplingClient, TrainingClient

__all__ = ["demo"]

_MODEL = "tinkex/tiny"
_RANK = 32
_SEED = 1
#: Tokens of a window, windows of a batch.
_WINDOW = 128
_BATCH = 4
_LEARNING_RATE = 0.005
_WARM_UP = 5
#: How often each token is seen, if there is time; the shipped text is learnt by then.
_ROUNDS = 130
#: At least this many steps, for texts of a line or two.
_LEAST_STEPS = 100
#: Seconds of training, at most.
_SHIPPED_SECONDS = 32.0
_FILE_SECONDS = 45.0
#: Steps whose mean is reported as the loss.
_RECENT = 10
_SAMPLES = 200
_PROMPT = 24
_CONTINUATION = 24
#: Tokens of the sample before and after.
_SHOWN = 160
#: Bytes; below this there is nothing to learn and to continue.
_SHORTEST = 2 * (_PROMPT + _CONTINUATION)


@dataclass
class Course:
    """How far training has come."""

    #: Mean loss per token of each step, in nats.
    losses: List[float]
    #: From 0 to 1: of the steps or of the time, whichever is nearer its end.
    complete: float = 0.0
    out_of_time: bool = False

    @property
    def first(self) -> float:
        return self.losses[0]

    @property
    def last(self) -> float:
        recent = self.losses[-_RECENT:]
        return sum(recent) / len(recent)


@click.command(cls=Command)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@pass_output
def demo(output: Output, file: Optional[Path]) -> None:
    """Fine-tune a tiny model on FILE and sample from it.

    Without FILE it is a short story that comes along. All of it happens on this machine, on the embedded
    server. A long FILE is trained on for 45 seconds.
    """
    text = read_text(Path(__file__).with_name("story.txt") if file is None else file)
    if len(text.encode("utf-8")) < _SHORTEST:
        raise CommandError(
            f"{file} has only {len(text.encode('utf-8'))} bytes of text", f"Give at least {_SHORTEST}."
        )
    console = output.stderr() if output.json else output.stdout()
    result = _run(console, text, "a story that comes along" if file is None else str(file), file is None)
    if output.json:
        click.echo(json.dumps(result, indent=2))


def _run(console: Console, text: str, name: str, shipped: bool) -> Dict[str, Any]:
    from ...clients import ServiceClient
    from ...local import LocalServer
    from ...tokenizers.byte_tokenizer import ByteTokenizer

    tokenizer = ByteTokenizer()
    tokens = tokenizer.encode(text)
    console.print("Starting the embedded server ...", soft_wrap=True)
    with LocalServer() as server, ServiceClient(base_url=server.base_url, api_key="local") as service:
        console.print(
            f"It listens on {server.base_url}; its model is {_MODEL}, one token a byte.", soft_wrap=True
        )
        training = service.create_lora_training_client(_MODEL, rank=_RANK, seed=_SEED)
        opening = tokens[: max(_PROMPT, text.encode("utf-8").find(b" ", _PROMPT))][: 4 * _PROMPT]
        before = _continued(training, opening)
        _quote(
            console,
            "Before training it goes on like this:",
            tokenizer.decode(opening),
            tokenizer.decode(before),
        )
        console.print(f"\nFine-tuning on {name}, {len(tokens)} tokens:", soft_wrap=True)
        course = _train(console, training, tokens, _SHIPPED_SECONDS if shipped else _FILE_SECONDS, shipped)
        share = f"1/{course.first / course.last:.0f} of where it began" if course.last > 0 else "nothing left"
        if course.out_of_time and not shipped:
            console.print(f"Stopped after {_FILE_SECONDS:.0f} s; it would go on falling.", soft_wrap=True)
        console.print(f"First loss per token: {course.first:.3f}", soft_wrap=True)
        console.print(
            f"Last loss per token:  {course.last:.3f} ({share}, after {len(course.losses)} steps)",
            soft_wrap=True,
        )
        sampler = training.save_weights_and_get_sampling_client()
        after = _sampled(sampler, opening)
        _quote(console, "\nNow it goes on like this:", tokenizer.decode(opening), tokenizer.decode(after))
        exact = _draw_many(console, sampler, tokens)
        console.print(f"{exact} of {_SAMPLES} samples go on exactly as the text does.", soft_wrap=True)
    return {
        "first_loss": course.first,
        "last_loss": course.last,
        "steps": len(course.losses),
        "prompt": tokenizer.decode(opening),
        "sample_before": tokenizer.decode(before),
        "sample_after": tokenizer.decode(after),
        "samples": _SAMPLES,
        "samples_like_the_text": exact,
    }


def _continued(training: TrainingClient, prompt: List[int]) -> List[int]:
    return _sampled(training.save_weights_and_get_sampling_client(), prompt)


def _sampled(sampler: SamplingClient, prompt: List[int]) -> List[int]:
    from ... import types

    params = types.SamplingParams(max_tokens=_SHOWN, temperature=0.3, seed=_SEED)
    reply = sampler.sample(types.ModelInput.from_ints(prompt), 1, params)
    return list(reply.sequences[0].tokens)


def _quote(console: Console, title: str, prompt: str, completion: str) -> None:
    # Untrained, it says whatever it likes to the terminal.
    printable = "".join(mark if mark.isprintable() or mark == "\n" else "·" for mark in completion)
    if not _can_print(console, "·…█"):
        printable = printable.encode("ascii", "replace").decode()
        prompt = prompt.encode("ascii", "replace").decode()
    console.print(title, soft_wrap=True)
    console.print(f"  {prompt}[{printable}]".replace("\n", "\n  "), soft_wrap=True)


def _can_print(console: Console, text: str) -> bool:
    try:
        text.encode(console.encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _train(
    console: Console, training: TrainingClient, tokens: List[int], seconds: float, shipped: bool
) -> Course:
    """Train until the text is learnt or time is up, showing the loss."""
    from ...concurrency.clock import Clock
    from ...types import AdamParams

    clock, course = Clock(), Course([])
    steps = max(_LEAST_STEPS, len(tokens) * _ROUNDS // (_WINDOW * _BATCH))
    began = clock.time()
    examples = windows(tokens, _WINDOW, random.Random(_SEED))
    with _shown(console, course) as show:
        while course.complete < 1:
            batch = [example(window, [1.0] * len(window)) for window in islice(examples, _BATCH)]
            # In its second half the rate goes down to a tenth, so that the loss settles.
            rate = _LEARNING_RATE * min(1.0, 1.9 - 1.8 * course.complete)
            rate *= min(1.0, (len(course.losses) + 1) / _WARM_UP)
            step = training.train_step(batch, "cross_entropy", AdamParams(learning_rate=rate))
            course.losses.append(step.metrics["loss:sum"] / sum(datum.model_input.length for datum in batch))
            by_time = (clock.time() - began) / seconds
            course.out_of_time = by_time >= 1
            course.complete = min(1.0, max(len(course.losses) / steps, by_time))
            show()
    return course


@contextmanager
def _shown(console: Console, course: Course) -> Iterator[Callable[[], None]]:
    """A function to call after each step: it redraws the chart, or, without a terminal, prints lines."""
    unicode = _can_print(console, "█")

    def picture() -> str:
        line = f"step {len(course.losses):4d}   loss per token {course.last:.3f}   {course.complete:4.0%}"
        return f"{chart(course.losses, unicode=unicode, complete=course.complete)}\n{line}"

    if console.is_terminal:
        from rich.live import Live
        from rich.text import Text

        with Live(console=console, refresh_per_second=8) as live:
            yield lambda: live.update(Text(picture()))
        return
    printed = 0.0

    def print_line() -> None:
        nonlocal printed
        if len(course.losses) == 1 or course.complete >= printed + 0.1:
            printed = course.complete
            console.print(f"  step {len(course.losses):4d}  loss per token {course.last:.3f}", soft_wrap=True)

    yield print_line
    console.print(chart(course.losses, unicode=unicode), soft_wrap=True)


def _draw_many(console: Console, sampler: SamplingClient, tokens: List[int]) -> int:
    """Continue the text at 200 places; how often that gives what stands there."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from ... import types

    room = len(tokens) - _PROMPT - _CONTINUATION
    starts = [index * room // (_SAMPLES - 1) for index in range(_SAMPLES)]
    prompts = (types.ModelInput.from_ints(tokens[start : start + _PROMPT]) for start in starts)
    params = types.SamplingParams(max_tokens=_CONTINUATION, temperature=0.3, seed=_SEED)
    exact = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    plain = not console.is_terminal
    with Progress(*columns, console=console, disable=plain) as bars:
        task = bars.add_task(f"Drawing {_SAMPLES} samples", total=_SAMPLES)
        replies = sampler.sample_many(prompts, sampling_params=params)
        for done, (start, reply) in enumerate(zip(starts, replies), start=1):
            there = tokens[start + _PROMPT : start + _PROMPT + _CONTINUATION]
            exact += list(reply.sequences[0].tokens) == there
            bars.advance(task)
            if plain and done % 50 == 0:
                console.print(f"  {done} of {_SAMPLES} samples drawn", soft_wrap=True)
    return exact
