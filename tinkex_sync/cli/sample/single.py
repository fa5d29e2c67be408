"""Sample one prompt that is given on the command line, and print the completion."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional

import click

from ..connections import connected_service
from ..output import CommandError, Output, visible_text

if TYPE_CHECKING:
    from .prompts import Prompt
    from .sampler import PromptSampler

__all__ = ["opened_sampler", "sample_once", "sampled_texts"]


@contextmanager
def opened_sampler(output: Output, options: Dict[str, Any], timeout: Optional[float]) -> Iterator[PromptSampler]:
    """Yield a sampler for the model and the tokenizer of ``options``, which are removed from them."""
    from ...concurrency.clock import Clock
    from ...tokenizers.loading import load_tokenizer
    from .progress import shown_progress
    from .sampler import PromptSampler, PromptTokenizer, load_tokenizer_of, open_sampler

    model, tokenizer_id = options.pop("model"), options.pop("tokenizer")
    with shown_progress(output, Clock(), 1, 0) as progress, connected_service(output, plugins=[progress]) as service:
        client = open_sampler(service, model)
        load = partial(load_tokenizer_of, service, client, model)
        if tokenizer_id is not None:
            load = partial(load_tokenizer, tokenizer_id)
        yield PromptSampler(client, PromptTokenizer(output, load, is_required=True), options, timeout)


def sampled_texts(sampler: PromptSampler, prompt: Prompt) -> List[str]:
    """Return the texts of the completions of a prompt.

    Raises:
        CommandError: The prompt has no tokens.
    """
    try:
        response = sampler.submit(prompt).result()
    except ValueError as error:
        raise CommandError(str(error), "Give another prompt.") from None
    return sampler.texts(prompt, response) or []


def sample_once(output: Output, text: str, options: Dict[str, Any], timeout: Optional[float]) -> None:
    """Sample the completions of one prompt, and print their texts.

    Args:
        text: The prompt; ``-`` reads it from standard input.
        options: The options of the command.

    Raises:
        CommandError: The prompt is empty, or it is the name of a file.
    """
    from .prompts import Prompt

    if text == "-":
        text = sys.stdin.read()
    elif "\n" not in text and Path(text[:200]).is_file():
        raise CommandError(
            f"{text} is a file: give the output with -o", "Or end the text with a space if it is the prompt itself."
        )
    if not text:
        raise CommandError("the prompt is empty", 'Give a text, as in: tinkex-sync sample "Once upon a time" -m MODEL')
    with opened_sampler(output, options, timeout) as sampler:
        texts = sampled_texts(sampler, Prompt(0, text, None))
    if output.json:
        output.result({"prompt": text, "texts": texts}, "", (), ())
        return
    for number, one in enumerate(texts):
        if number:
            click.echo("---")
        click.echo(visible_text(one))
