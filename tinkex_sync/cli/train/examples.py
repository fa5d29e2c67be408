"""Encode training data as tokens and weights."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ...errors import TinkexError
from .data import SAMPLED_LOSSES, Completion, Conversation, Data, Record, Sampled, refuse_lines

if TYPE_CHECKING:
    from ...types import Datum

__all__ = ["Example", "encode"]

#: Tokens, and whether they are learned.
_Part = Tuple[Sequence[int], bool]


@dataclass(frozen=True)
class Example:
    """One sequence to train on. It is kept in arrays, because there may be many."""

    tokens: array[int]
    #: The inputs of the loss by name, with one number for each token. The first token cannot be predicted, so its
    #: number is not used.
    columns: Dict[str, array[float]]
    #: Number of tokens that are learned.
    learned: int

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
    problems: List[Tuple[int, str]] = []
    for record in data.records:
        try:
            encoded = _encode_record(record, tokenizer, loss)
        except (ValueError, TypeError) as error:
            problems.append((record.line, str(error)))
            continue
        longest = max(example.length for example in encoded)
        if longest > context:
            reason = f"{longest} tokens are more than --context {context}: raise it or shorten the line"
            problems.append((record.line, reason))
        elif not all(example.learned for example in encoded):
            problems.append((record.line, "it has no token to learn"))
        examples += encoded
    refuse_lines(data.path, problems, "Nothing was trained.")
    return examples


def _encode_text(data: Data, tokenizer: Any, context: int) -> List[Example]:
    tokens = tokenizer.encode(data.text, add_special_tokens=False)
    starts = range(0, len(tokens) - 1, context)
    examples = [_build_example([(tokens[start : start + context + 1], True)]) for start in starts]
    if not examples:
        reason = "the text is a single token, which no earlier token predicts"
        refuse_lines(data.path, [(1, reason)], "Nothing was trained.")
    return examples


def _encode_record(record: Record, tokenizer: Any, loss: str) -> List[Example]:
    if isinstance(record, Completion):
        return [_encode_completion(record, tokenizer)]
    if isinstance(record, Conversation):
        return _encode_conversation(record, tokenizer)
    return [_encode_sampled(record, loss)]


def _build_example(parts: Iterable[_Part]) -> Example:
    tokens, weights = array("i"), array("d")
    for part, is_learned in parts:
        tokens.extend(part)
        weights.extend([float(is_learned)] * len(part))
    return Example(tokens, {"weights": weights}, round(sum(weights[1:])))


def _encode_plain(tokenizer: Any, text: str) -> List[int]:
    """Encode a text without special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def _start_tokens(tokenizer: Any) -> List[int]:
    """Return the beginning-of-sequence token, if the tokenizer puts it before a text."""
    first = getattr(tokenizer, "bos_token_id", None)
    if first is not None and list(tokenizer.encode("a", add_special_tokens=True))[:1] == [first]:
        return [first]
    return []


def _end_tokens(tokenizer: Any) -> List[int]:
    """Return the end-of-sequence token, if there is one."""
    end: Optional[int] = getattr(tokenizer, "eos_token_id", None)
    return [] if end is None else [end]


def _encode_completion(record: Completion, tokenizer: Any) -> Example:
    prompt = [*_start_tokens(tokenizer), *_encode_plain(tokenizer, record.prompt)]
    completion, end = _encode_plain(tokenizer, record.completion), _end_tokens(tokenizer)
    if completion[-1:] != end:
        completion += end
    return _build_example([(prompt, False), (completion, True)])


def _encode_conversation(record: Conversation, tokenizer: Any) -> List[Example]:
    if getattr(tokenizer, "chat_template", None):
        return _encode_with_template(record, tokenizer)
    if record.tools is not None:
        raise ValueError('"tools" need a chat template, and this tokenizer has none')
    # One line "role: content" for each message. A reply ends with the end-of-sequence token before its newline.
    parts: List[_Part] = [(_start_tokens(tokenizer), False)]
    end = _end_tokens(tokenizer)
    for message in record.messages:
        role, content = message["role"], message["content"]
        if role == "assistant":
            parts.append((_encode_plain(tokenizer, f"{role}:"), False))
            parts.append(([*_encode_plain(tokenizer, f" {content}" + ("" if end else "\n")), *end], True))
            parts.append((_encode_plain(tokenizer, "\n" if end else ""), False))
        else:
            parts.append((_encode_plain(tokenizer, f"{role}: {content}\n"), False))
    return [_build_example(parts)]


def _encode_with_template(record: Conversation, tokenizer: Any) -> List[Example]:
    """Encode a conversation with the tokenizer's chat template.

    A reply is the text that the template adds to the prompt for it. If the template only appends text, the conversation
    is one example. Some templates remove earlier thoughts; then each reply is an example of its own.
    """
    replies = _render_replies(record, tokenizer)
    last = replies[-1][1]
    if all(last.startswith(text) for _, text in replies):
        parts: List[_Part] = []
        done = 0
        for prompt, text in replies:
            parts.append((_encode_plain(tokenizer, last[done : len(prompt)]), False))
            parts.append((_encode_plain(tokenizer, last[len(prompt) : len(text)]), True))
            done = len(text)
        return [_build_example(parts)]
    return [
        _build_example(
            [(_encode_plain(tokenizer, prompt), False), (_encode_plain(tokenizer, text[len(prompt) :]), True)]
        )
        for prompt, text in replies
    ]


def _render_replies(record: Conversation, tokenizer: Any) -> List[Tuple[str, str]]:
    """Return, for each reply, the text of the prompt for it and the text up to its end."""
    replies = []
    for index, message in enumerate(record.messages):
        if message["role"] == "assistant":
            prompt = _render(record, tokenizer, index, True)
            text = _render(record, tokenizer, index + 1, False)
            if not text.startswith(prompt):
                raise ValueError(
                    f'"messages"[{index}]: the chat template does not write this reply after the prompt for it'
                )
            replies.append((prompt, text))
    return replies


def _render(record: Conversation, tokenizer: Any, count: int, add_generation_prompt: bool) -> str:
    """Apply the chat template to the first ``count`` messages."""
    tools = {} if record.tools is None else {"tools": record.tools}
    try:
        text: str = tokenizer.apply_chat_template(
            record.messages[:count], tokenize=False, add_generation_prompt=add_generation_prompt, **tools
        )
    except TinkexError:
        raise
    except Exception as error:  # a template may raise any exception
        raise ValueError(f"the chat template raised an error: {error}") from error
    return text


def _encode_sampled(record: Sampled, loss: str) -> Example:
    prompt_length = len(record.prompt)
    if loss not in SAMPLED_LOSSES:
        return _build_example([(record.prompt, False), (record.completion, True)])
    assert record.logprobs is not None
    assert record.advantages is not None
    # A token without an advantage adds nothing to any of these losses.
    columns = {
        "logprobs": array("d", [0.0] * prompt_length + record.logprobs),
        "advantages": array("d", [0.0] * prompt_length + record.advantages),
    }
    return Example(array("i", record.prompt + record.completion), columns, len(record.completion))
