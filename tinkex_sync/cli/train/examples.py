"""Training examples: data made into tokens and weights, and the order in which batches take them."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ...errors import TinkexError
from .data import SAMPLED_LOSSES, Completion, Conversation, Data, Sampled, refuse

if TYPE_CHECKING:
    from ...types import Datum

__all__ = ["Batches", "Example", "encode"]

#: Tokens, and whether they are learnt.
_Part = Tuple[Sequence[int], bool]


@dataclass(frozen=True)
class Example:
    """One sequence to train on; kept in arrays, as there may be many."""

    tokens: array[int]
    #: Inputs of the loss by name, one number a token; the first token cannot be predicted, so its is not used.
    columns: Dict[str, array[float]]
    #: How many tokens are learnt.
    learnt: int

    @property
    def length(self) -> int:
        """Tokens that go into the model."""
        return len(self.tokens) - 1

    def datum(self) -> Datum:
        """As it is sent."""
        from ...types import Datum, ModelInput, TensorData

        inputs = {"target_tokens": TensorData(data=list(self.tokens[1:]), dtype="int64")}
        for name, column in self.columns.items():
            inputs[name] = TensorData(data=list(column[1:]), dtype="float32")
        return Datum(model_input=ModelInput.from_ints(list(self.tokens[:-1])), loss_fn_inputs=inputs)


def encode(data: Data, tokenizer: Any, loss: str, context: int) -> List[Example]:
    """Examples of at most ``context`` tokens each, in the order of the file.

    A text is cut into windows of ``context`` tokens, and each token but the first is learnt once per epoch. Of a
    prompt with its completion the completion is learnt, of a conversation what the assistant says; both end with
    the tokenizer's end-of-sequence token, where it has one, so that the model learns to stop.

    Raises:
        CommandError: lines do not fit, each as ``FILE:LINE: reason``; or a text is too short to learn from.
    """
    if data.text is not None:
        tokens = tokenizer.encode(data.text, add_special_tokens=False)
        cuts = range(0, len(tokens) - 1, context)
        examples = [_example([(tokens[cut : cut + context + 1], True)]) for cut in cuts]
        if not examples:
            refuse(data.path, [(1, "the text is one token, which nothing predicts")], "Nothing was trained.")
        return examples
    examples = []
    problems: List[Tuple[int, str]] = []
    for record in data.records:
        try:
            if isinstance(record, Completion):
                made = [_completion(record, tokenizer)]
            elif isinstance(record, Conversation):
                made = _conversation(record, tokenizer)
            else:
                made = [_sampled(record, loss)]
        except (ValueError, TypeError) as error:
            problems.append((record.line, str(error)))
            continue
        longest = max(example.length for example in made)
        if longest > context:
            problems.append(
                (
                    record.line,
                    f"{longest} tokens are more than --context {context}: raise it or shorten the line",
                )
            )
        elif not all(example.learnt for example in made):
            problems.append((record.line, "no token is left to learn"))
        examples += made
    refuse(data.path, problems, "Nothing was trained.")
    return examples


def _example(parts: Iterable[_Part]) -> Example:
    tokens, weights = array("i"), array("d")
    for part, learnt in parts:
        tokens.extend(part)
        weights.extend([float(learnt)] * len(part))
    return Example(tokens, {"weights": weights}, round(sum(weights[1:])))


def _text(tokenizer: Any, text: str) -> List[int]:
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def _start(tokenizer: Any) -> List[int]:
    """What the model expects before a text."""
    first = getattr(tokenizer, "bos_token_id", None)
    if first is not None and list(tokenizer.encode("a", add_special_tokens=True))[:1] == [first]:
        return [first]
    return []


def _end(tokenizer: Any) -> List[int]:
    end: Optional[int] = getattr(tokenizer, "eos_token_id", None)
    return [] if end is None else [end]


def _completion(record: Completion, tokenizer: Any) -> Example:
    prompt = [*_start(tokenizer), *_text(tokenizer, record.prompt)]
    learnt, end = _text(tokenizer, record.completion), _end(tokenizer)
    return _example([(prompt, False), (learnt if learnt[-1:] == end else [*learnt, *end], True)])


def _conversation(record: Conversation, tokenizer: Any) -> List[Example]:
    if getattr(tokenizer, "chat_template", None):
        return _templated(record, tokenizer)
    if record.tools is not None:
        raise ValueError('"tools" need a chat template, and this tokenizer has none')
    # "role: content", a line each; a reply ends with the end-of-sequence token before its newline.
    parts: List[_Part] = [(_start(tokenizer), False)]
    end = _end(tokenizer)
    for message in record.messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            parts.append((_text(tokenizer, f"{role}:"), False))
            parts.append(([*_text(tokenizer, f" {content}" + ("" if end else "\n")), *end], True))
            parts.append((_text(tokenizer, "\n" if end else ""), False))
        else:
            parts.append((_text(tokenizer, f"{role}: {content}\n"), False))
    return [_example(parts)]


def _templated(record: Conversation, tokenizer: Any) -> List[Example]:
    """By the tokenizer's own template: each reply is what follows the prompt the model would be given for it.

    One example, if the template only ever appends; else one a reply (some leave out earlier thoughts).
    """

    def render(count: int, prompt: bool) -> str:
        extra = {} if record.tools is None else {"tools": record.tools}
        try:
            text: str = tokenizer.apply_chat_template(
                record.messages[:count], tokenize=False, add_generation_prompt=prompt, **extra
            )
        except TinkexError:
            raise
        except Exception as error:  # of whatever kind the template's author chose
            raise ValueError(f"the chat template refuses it: {error}") from error
        return text

    replies = []
    for index, message in enumerate(record.messages):
        if message["role"] == "assistant":
            prompt, whole = render(index, True), render(index + 1, False)
            if not whole.startswith(prompt):
                raise ValueError(
                    f'"messages"[{index}]: the chat template does not write this reply after the prompt for it'
                )
            replies.append((prompt, whole))
    last = replies[-1][1]
    if all(last.startswith(whole) for _, whole in replies):
        parts: List[_Part] = []
        done = 0
        for prompt, whole in replies:
            parts.append((_text(tokenizer, last[done : len(prompt)]), False))
            parts.append((_text(tokenizer, last[len(prompt) : len(whole)]), True))
            done = len(whole)
        return [_example(parts)]
    return [
        _example([(_text(tokenizer, prompt), False), (_text(tokenizer, whole[len(prompt) :]), True)])
        for prompt, whole in replies
    ]


def _sampled(record: Sampled, loss: str) -> Example:
    prompt = len(record.prompt)
    if loss not in SAMPLED_LOSSES:
        return _example([(record.prompt, False), (record.completion, True)])
    assert record.logprobs is not None
    assert record.advantages is not None
    # Without an advantage a token of the prompt adds nothing to any of these losses.
    columns = {
        "logprobs": array("d", [0.0] * prompt + record.logprobs),
        "advantages": array("d", [0.0] * prompt + record.advantages),
    }
    return Example(array("i", record.prompt + record.completion), columns, len(record.completion))


class Batches:
    """Which examples each step takes: every epoch all of them, in an order of its own.

    The order depends on the seed and the epoch alone, so that any step can be found without those before it. The
    last batch of an epoch may be smaller.
    """

    def __init__(self, examples: int, size: int, seed: int) -> None:
        self._examples = examples
        self._size = size
        self._seed = seed
        self._epoch = -1
        self._order: List[int] = []
        #: Steps of an epoch.
        self.per_epoch = -(-examples // size)

    def take(self, step: int) -> List[int]:
        """Places of the examples of a step, which counts from 0."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(self._examples))
            random.Random(f"{self._seed} {epoch}").shuffle(self._order)
        return self._order[index * self._size : (index + 1) * self._size]
