"""``tinkex-sync chat``: a conversation with a base model or a checkpoint."""

from __future__ import annotations

import sys
from typing import Any, Dict, List, Optional

import click

from .groups import Command
from .output import CommandError, Output, pass_output, visible_text

__all__ = ["chat"]

#: Ends a response of a model without a chat template before it writes the next line of the user.
_NEXT_TURNS = ["\nuser:", "\nsystem:"]


@click.command(cls=Command)
@click.option("-m", "--model", required=True, help="A base model, or the tinker:// path of saved weights.")
@click.option("--system", metavar="TEXT", help="A system message before the first one.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest response, in tokens."
)
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True, help="0: the likeliest.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True, help="Share of tokens."
)
@click.option("--seed", type=int, help="Seed of the random choice.")
@click.option("--stop", metavar="TEXT", multiple=True, help="End a response before this text. Repeatable.")
@click.option("--tokenizer", metavar="ID|PATH", help="Tokenizer. Default: the tokenizer that belongs to the model.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Longest time for each response. Default: no limit.",
)
@pass_output
def chat(output: Output, /, **options: Any) -> None:
    """Talk to a model: one line of yours, one response of the model, and so on.

    The conversation is written as the chat template of the tokenizer says, or as lines "user:" and "assistant:" without
    one. Ctrl-D ends it. Standard input may be a file or a pipe; then responses are all that is printed. With --format
    json the whole conversation is printed at the end, as a record that 'train' takes.
    """
    from .chats import parse_chat
    from .sample.prompts import Prompt
    from .sample.single import opened_sampler, sampled_texts

    timeout: Optional[float] = options.pop("timeout")
    system: Optional[str] = options.pop("system")
    options["stop"] = [*options["stop"], *_NEXT_TURNS]
    messages: List[Dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    with opened_sampler(output, {**options, "num_samples": 1, "logprobs": False}, timeout) as sampler:
        while True:
            line = _read_line(output)
            if line is None:
                break
            if not line.strip():
                continue
            messages.append({"role": "user", "content": line})
            prompt = Prompt(0, parse_chat({"messages": messages}), None)
            texts = sampled_texts(sampler, prompt)
            if not texts:
                raise CommandError("the model has no tokenizer", "Give one with --tokenizer.")
            messages.append({"role": "assistant", "content": texts[0].strip()})
            if not output.json:
                click.echo(visible_text(texts[0].strip()))
    if output.json:
        output.result({"messages": messages}, "", (), ())


def _read_line(output: Output) -> Optional[str]:
    """Return the next line of the user without its end; None at the end of the input."""
    if sys.stdin.isatty():
        click.echo("> ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line and sys.stdin.isatty():
        output.note("")
    return line.rstrip("\n") if line else None
