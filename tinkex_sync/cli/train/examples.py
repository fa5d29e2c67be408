"""Encode training data as tokens and weights."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Protocol

from ..chats import Part, encode_chat, encode_plain, end_tokens, start_tokens
from ..files import shown_name, temporary_file_errors
from ..json_lines import LineProblems
from .data import SAMPLED_LOSSES, Completion, Conversation, Data, Line, Record, Sampled

if TYPE_CHECKING:
    from ...types import Datum

__all__ = ["Example", "Examples", "encode"]


@dataclass(frozen=True)
class Example:
    """One sequence to train on."""

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


class Examples(Protocol):
    """Examples in the order of their file. Each is read when it is needed."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int) -> Example:
        """Return one example."""


def encode(data: Data, tokenizer: Any, loss: str, context: int) -> Examples:
    """Check that data can be encoded as examples of at most ``context`` tokens, and return these.

    A text is cut into windows of ``context`` tokens, and each token but the first is learned once per epoch. Of a
    prompt with its completion the completion is learned, of a conversation the messages of the assistant. Both end
    with the tokenizer's end-of-sequence token, if it has one, so that the model learns to stop.

    Args:
        data: It must stay open as long as the examples are used.

    Raises:
        CommandError: Lines are too long or cannot be encoded, each as ``FILE:LINE: reason``, or a text is too short.
    """
    return _Windows(data, tokenizer, context) if data.is_text else _Records(data, tokenizer, loss, context)


class _Windows:
    """The examples of a text. Its tokens are in a temporary file, four bytes each."""

    def __init__(self, data: Data, tokenizer: Any, context: int) -> None:
        self._context = context
        self._count = 0
        self._file = data.temporary_file()
        with temporary_file_errors():
            for text in data.texts():
                tokens = array("i", tokenizer.encode(text, add_special_tokens=False))
                self._count += len(tokens)
                self._file.write(tokens)
            self._file.flush()
        if self._count < 2:
            problems = LineProblems(shown_name(data.path), "Nothing was trained.")
            problems.add(1, "the text is a single token, which no earlier token predicts")
            problems.raise_if_any()

    def __len__(self) -> int:
        return -(-(self._count - 1) // self._context)

    def __getitem__(self, index: int) -> Example:
        tokens = array("i")
        self._file.seek(index * self._context * tokens.itemsize)
        tokens.frombytes(self._file.read((self._context + 1) * tokens.itemsize))
        return _build_example([(tokens, 1)])


class _Records:
    """The examples of JSON lines. For each, the position of its line is kept, in 24 bytes."""

    def __init__(self, data: Data, tokenizer: Any, loss: str, context: int) -> None:
        self._data = data
        self._tokenizer = tokenizer
        self._loss = loss
        self._numbers, self._offsets, self._checksums = array("q"), array("q"), array("I")
        #: The number of an example among those of its line, from 0. A conversation may have several.
        self._parts = array("I")
        problems = LineProblems(shown_name(data.path), "Nothing was trained.")
        for line, record in data.records():
            try:
                encoded = _encode_record(record, tokenizer, loss)
            except (ValueError, TypeError) as error:
                problems.add(line.number, error)
                continue
            longest = max(example.length for example in encoded)
            if longest > context:
                reason = f"{longest} tokens are more than --context {context}: raise it or shorten the line"
                problems.add(line.number, reason)
            elif not all(example.learned for example in encoded):
                problems.add(line.number, "it has no token to learn")
            for part in range(len(encoded)):
                self._add(line, part)
        problems.raise_if_any()

    def _add(self, line: Line, part: int) -> None:
        columns = (self._numbers, self._offsets, self._checksums, self._parts)
        for column, value in zip(columns, (*line, part)):
            column.append(value)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Example:
        line = Line(self._numbers[index], self._offsets[index], self._checksums[index])
        return _encode_record(self._data.record_at(line), self._tokenizer, self._loss)[self._parts[index]]


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
