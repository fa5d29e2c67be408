"""Encode training data as tokens and weights."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterable, List

from ..chats import Part, encode_chat, encode_plain, end_tokens, start_tokens
from ..files import shown_name
from ..json_lines import LineProblems
from .data import SAMPLED_LOSSES, Completion, Conversation, Data, Record, Sampled

if TYPE_CHECKING:
    from ...types import Datum

__all__ = ["Example", "encode"]


@dataclass(frozen=True)
class Example:
    """One sequence to train on. It is kept in arrays, because there may be many."""

    tokens: array[int]
    #: The inputs of the loss by name, with one number for each token. The first token cannot be predicted, so its
    #: number is not used.
    columns: Dict[str, array[float]]
    #: Sum of the weights of the tokens. It is the number of learned tokens, unless messages have other weights than 1.
    learned: float

    @property
    def length(self) -> int:
        """The number of tokens of the model input."""
        return len(self.tokens) - 1

    def datum(self) -> Datum:
        """Return the example as a datum."""
        from ...types import Datum, ModelInput, TensorData

        inputs = {"target_tokens": TensorData(data=list(self.tokens[1:]), dtype="int64")}
        for name, column in self.columns.items():
            inputs[name] = TensorData(data=list(column[1:]), dtype="float32")
        return Datum(model_input=ModelInput.from_ints(list(self.tokens[:-1])), loss_fn_inputs=inputs)


def encode(data: Data, tokenizer: Any, loss: str, context: int) -> List[Example]:
    """Encode data as examples of at most ``context`` tokens, in the order of the file.

    A text is cut into windows of ``context`` tokens, and each token but the first is learned once per epoch. Of a
    prompt with its completion the completion is learned, of a conversation the messages of the assistant. Both end
    with the tokenizer's end-of-sequence token, if it has one, so that the model learns to stop.

    Raises:
        CommandError: Lines are too long or cannot be encoded, each as ``FILE:LINE: reason``, or a text is too short.
    """
    if data.text is not None:
        return _encode_text(data, tokenizer, context)
    examples: List[Example] = []
    problems = LineProblems(shown_name(data.path), "Nothing was trained.")
    for record in data.records:
        try:
            encoded = _encode_record(record, tokenizer, loss)
        except (ValueError, TypeError) as error:
            problems.add(record.line, error)
            continue
        longest = max(example.length for example in encoded)
        if longest > context:
            reason = f"{longest} tokens are more than --context {context}: raise it or shorten the line"
            problems.add(record.line, reason)
        elif not all(example.learned for example in encoded):
            problems.add(record.line, "it has no token to learn")
        examples += encoded
    problems.raise_if_any()
    return examples


def _encode_text(data: Data, tokenizer: Any, context: int) -> List[Example]:
    tokens = tokenizer.encode(data.text, add_special_tokens=False)
    starts = range(0, len(tokens) - 1, context)
    examples = [_build_example([(tokens[start : start + context + 1], 1)]) for start in starts]
    if not examples:
        problems = LineProblems(shown_name(data.path), "Nothing was trained.")
        problems.add(1, "the text is a single token, which no earlier token predicts")
        problems.raise_if_any()
    return examples


def _encode_record(record: Record, tokenizer: Any, loss: str) -> List[Example]:
    if isinstance(record, Completion):
        return [_encode_completion(record, tokenizer)]
    if isinstance(record, Conversation):
        return [_build_example(parts) for parts in encode_chat(record.chat, tokenizer)]
    return [_encode_sampled(record, loss)]


def _build_example(parts: Iterable[Part]) -> Example:
    tokens, weights = array("i"), array("d")
    for part, weight in parts:
        tokens.extend(part)
        weights.extend([float(weight)] * len(part))
    return Example(tokens, {"weights": weights}, sum(weights[1:]))


def _encode_completion(record: Completion, tokenizer: Any) -> Example:
    prompt = [*start_tokens(tokenizer), *encode_plain(tokenizer, record.prompt)]
    completion, end = encode_plain(tokenizer, record.completion), end_tokens(tokenizer)
    if completion[-1:] != end:
        completion += end
    return _build_example([(prompt, 0), (completion, 1)])


def _encode_sampled(record: Sampled, loss: str) -> Example:
    prompt_length = len(record.prompt)
    if loss not in SAMPLED_LOSSES:
        return _build_example([(record.prompt, 0), (record.completion, 1)])
    assert record.logprobs is not None
    assert record.advantages is not None
    # A token without an advantage adds nothing to any of these losses.
    columns = {
        "logprobs": array("d", [0.0] * prompt_length + record.logprobs),
        "advantages": array("d", [0.0] * prompt_length + record.advantages),
    }
    return Example(array("i", record.prompt + record.completion), columns, len(record.completion))
