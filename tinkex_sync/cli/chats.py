"""Parse chats, and encode them as prompts and as training examples.

A chat is encoded with the tokenizer's chat template. Without a template, each message is one line ``role: content``.
No key of a message is ignored. A key that the template does not write is refused.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Optional, Sequence, Tuple

from ..errors import TinkexError
from .json_lines import WrongLineError, excerpt

__all__ = [
    "Chat", "Part", "check_chat", "encode_chat", "encode_chat_prompt", "encode_plain", "end_tokens",
    "parse_chat", "start_tokens",
]  # fmt: skip

#: Tokens, and the weight of each of them in the loss. Tokens of weight 0 are only read.
Part = Tuple[Sequence[int], float]
_Messages = List[Dict[str, Any]]

#: Every chat template writes messages of these roles.
_COMMON_ROLES = ("system", "user", "assistant", "tool")
#: Keys of messages of the role "tool" that only link the result to its call. Many templates link them by their order.
_LINKS = ("tool_call_id", "name")
#: A tag around the text that is learned, as transformers defines it.
_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
#: Characters for private use, from which the marks of learned text are chosen.
_MARKS = [chr(code) for code in range(0xE000, 0xE100)]


@dataclass(frozen=True)
class Chat:
    """A conversation."""

    #: Messages with "role", "content" and further keys for the template. "weight" and "trainable" are removed.
    messages: _Messages
    #: The weight of each message in training. It is 0 for all roles but "assistant".
    weights: List[float]
    #: Descriptions of tools, for the template.
    tools: Optional[List[Any]]


def parse_chat(value: Dict[str, Any], ignored: Collection[str] = ()) -> Chat:
    """Parse the keys "messages" and "tools" of a record.

    Args:
        value: The record.
        ignored: Keys of messages that are removed.

    Raises:
        WrongLineError: A message is wrong.
    """
    messages, tools = value["messages"], value.get("tools")
    if not isinstance(messages, list) or not messages:
        raise WrongLineError(f'"messages" must be a list with at least one message, not {excerpt(messages)}')
    if tools is not None and not isinstance(tools, list):
        raise WrongLineError(f'"tools" must be a list, not {excerpt(tools)}')
    parsed: _Messages = []
    weights: List[float] = []
    for index, message in enumerate(messages):
        name = f'"messages"[{index}]'
        if not isinstance(message, dict):
            raise WrongLineError(f"{name} must be an object, not {excerpt(message)}")
        # Exports write null for keys that a message does not have.
        kept = {key: inner for key, inner in message.items() if inner is not None and key not in ignored}
        weights.append(_take_weight(kept, name))
        if "content" in message:
            kept.setdefault("content", None)
        _check_message(kept, name)
        parsed.append(kept)
    return Chat(parsed, weights, tools)


def _take_weight(message: Dict[str, Any], name: str) -> float:
    """Remove "weight" and "trainable" from a message, and return its weight in training."""
    is_assistant = message.get("role") == "assistant"
    weight, trainable = message.pop("weight", None), message.pop("trainable", None)
    if weight is not None and (
        isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf
    ):
        raise WrongLineError(f'{name}["weight"] must be a finite number of at least 0, not {excerpt(weight)}')
    if trainable is not None and not isinstance(trainable, bool):
        raise WrongLineError(f'{name}["trainable"] must be true or false, not {excerpt(trainable)}')
    if None not in (weight, trainable) and bool(weight) != trainable:
        raise WrongLineError(f'{name} has "weight" {weight} and "trainable" {excerpt(trainable)}: give one of them')
    if weight is None:
        weight = is_assistant if trainable is None else trainable
    if weight and not is_assistant:
        raise WrongLineError(f'{name} cannot be learned: its role is {excerpt(message.get("role"))}, not "assistant"')
    return float(weight)


def _check_message(message: Dict[str, Any], name: str) -> None:
    for key in ("role", "content"):
        if key not in message and not (key == "content" and "tool_calls" in message):
            raise WrongLineError(f'{name} has no "{key}"')
    role, content = message["role"], message.setdefault("content", None)
    if not isinstance(role, str):
        raise WrongLineError(f'{name}["role"] must be text, not {excerpt(role)}')
    if not role:
        raise WrongLineError(f'{name}["role"] is empty')
    if content is None and "tool_calls" in message:
        return
    if isinstance(content, list):
        for position, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise WrongLineError(
                    f'{name}["content"][{position}] must be {{"type": "text", "text": ...}}, not {excerpt(part)}:'
                    " other parts cannot be encoded"
                )
    elif not isinstance(content, str):
        raise WrongLineError(f'{name}["content"] must be text, not {excerpt(content)}')


def encode_plain(tokenizer: Any, text: str) -> List[int]:
    """Encode a text without special tokens."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def start_tokens(tokenizer: Any) -> List[int]:
    """Return the beginning-of-sequence token, if the tokenizer puts it before a text."""
    first = getattr(tokenizer, "bos_token_id", None)
    if first is not None and list(tokenizer.encode("a", add_special_tokens=True))[:1] == [first]:
        return [first]
    return []


def end_tokens(tokenizer: Any) -> List[int]:
    """Return the end-of-sequence token, if there is one."""
    end: Optional[int] = getattr(tokenizer, "eos_token_id", None)
    return [] if end is None else [end]


def check_chat(chat: Chat, tokenizer: Any) -> None:
    """Check that the tokenizer can encode every key of a chat, as for the prompt of an assistant message.

    Raises:
        ValueError: It cannot. The message names the key.
    """
    template = _Template.of(tokenizer)
    if template is None:
        _require_plain(chat)
    else:
        template.prepared(chat).render(add_generation_prompt=True)


def encode_chat_prompt(chat: Chat, tokenizer: Any) -> List[int]:
    """Return the tokens of the prompt for the next assistant message, as :func:`encode_chat` writes them before it.

    Raises:
        ValueError: The chat cannot be encoded.
    """
    template = _Template.of(tokenizer)
    if template is not None:
        return encode_plain(tokenizer, template.prepared(chat).render(add_generation_prompt=True))
    _require_plain(chat)
    parts = [*_encode_lines(chat, tokenizer), (encode_plain(tokenizer, "assistant:"), 0.0)]
    return [token for tokens, _ in parts for token in tokens]


def encode_chat(chat: Chat, tokenizer: Any) -> List[List[Part]]:
    """Encode a chat as training examples, each a list of parts.

    The assistant messages are learned. With a template, one is the text that the template adds to the prompt for it,
    or the text between the template's generation tags. If the template only appends text, the chat is one example. Some
    templates remove earlier thoughts; then each of them is an example of its own.

    Raises:
        ValueError: The chat cannot be encoded.
    """
    template = _Template.of(tokenizer)
    if template is None:
        _require_plain(chat)
        return [_encode_lines(chat, tokenizer)]
    prepared = template.prepared(chat)
    examples = prepared.learned_texts() if prepared.has_generation_tags else prepared.assistant_texts()
    return [[(encode_plain(tokenizer, text), weight) for text, weight in example] for example in examples]


def _require_plain(chat: Chat) -> None:
    """Check that a chat can be written without a chat template."""
    missing = "a chat template, and this tokenizer has none"
    if chat.tools is not None:
        raise ValueError(f'"tools" need {missing}')
    for index, message in enumerate(chat.messages):
        for key in message:
            if key not in ("role", "content"):
                raise ValueError(f'"messages"[{index}]["{key}"] needs {missing}')
        if not isinstance(message["content"], str):
            raise ValueError(f'the parts of "messages"[{index}]["content"] need {missing}')


def _encode_lines(chat: Chat, tokenizer: Any) -> List[Part]:
    """Encode one line ``role: content`` for each message.

    An assistant message ends with the end-of-sequence token before its newline.
    """
    parts: List[Part] = [(start_tokens(tokenizer), 0.0)]
    end = end_tokens(tokenizer)
    for message, weight in zip(chat.messages, chat.weights):
        role, content = message["role"], message["content"]
        if role == "assistant":
            parts.append((encode_plain(tokenizer, f"{role}:"), 0.0))
            parts.append(([*encode_plain(tokenizer, f" {content}" + ("" if end else "\n")), *end], weight))
            parts.append((encode_plain(tokenizer, "\n" if end else ""), 0.0))
        else:
            parts.append((encode_plain(tokenizer, f"{role}: {content}\n"), 0.0))
    return parts


class _Template:
    """The chat template of a tokenizer. Immutable."""

    def __init__(self, tokenizer: Any, found: Any) -> None:
        self._tokenizer = tokenizer
        self._found = found

    @classmethod
    def of(cls, tokenizer: Any) -> Optional[_Template]:
        """Return the template of a tokenizer, or None if it has none."""
        found = getattr(tokenizer, "chat_template", None)
        return cls(tokenizer, found) if found else None

    def prepared(self, chat: Chat) -> _PreparedChat:
        """Return a chat whose keys are all written by the template.

        Raises:
            ValueError: The template does not write a key.
        """
        prepared = _PreparedChat(self, chat)
        prepared.convert_arguments()
        prepared.check()
        return prepared

    def text(self, has_tools: bool) -> str:
        """Return the Jinja text that is used for a chat."""
        found = self._found
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}
        if isinstance(found, dict):
            found = (found.get("tool_use") if has_tools else None) or found.get("default", "")
        return str(found)

    def render(
        self, messages: _Messages, tools: Optional[List[Any]], add_generation_prompt: bool, marks: str = ""
    ) -> str:
        """Render messages.

        Args:
            marks: Two characters that are written at the start and at the end of text between generation tags, or "".

        Raises:
            ValueError: The template raised an error.
        """
        options: Dict[str, Any] = {} if tools is None else {"tools": tools}
        if marks:
            options["chat_template"] = _marked(self.text(bool(tools)), *marks)
        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
            )
        except TinkexError:
            raise
        except Exception as error:  # a template may raise any exception
            raise ValueError(f"the chat template raised an error: {error}") from error
        return text


def _marked(source: str, start: str, end: str) -> str:
    """Replace the generation tags of a template by marks.

    Each tag becomes two tags with a mark between them, so that whitespace around the tag is removed as before.
    """

    def replace(match: re.Match[str]) -> str:
        left, is_end, right = match.groups()
        if is_end:
            return f"{{%{left} endif %}}{end}{{% endif {right}%}}"
        return f"{{%{left} if true %}}{start}{{% if true {right}%}}"

    return _GENERATION_TAG.sub(replace, source)


class _PreparedChat:
    """A chat for one template. Used by one thread."""

    def __init__(self, template: _Template, chat: Chat) -> None:
        self._template = template
        self._messages = chat.messages
        self._weights = chat.weights
        self._tools = chat.tools

    @property
    def has_generation_tags(self) -> bool:
        """Whether the template marks the text that is learned."""
        return bool(_GENERATION_TAG.search(self._template.text(bool(self._tools))))

    def render(self, count: Optional[int] = None, add_generation_prompt: bool = False) -> str:
        """Render the first ``count`` messages, or all."""
        return self._template.render(self._messages[:count], self._tools, add_generation_prompt)

    def convert_arguments(self) -> None:
        """Replace the arguments of tool calls, if they are JSON text that the template would encode a second time.

        Some templates expect text, and others an object. The API of OpenAI has text.

        Raises:
            ValueError: The template expects an object, and the text is not JSON.
        """
        calls = [call for message in self._messages for call in _function_calls(message)]
        texts = [call["arguments"] for call in calls if isinstance(call.get("arguments"), str)]
        if not texts:
            return
        rendered = self._rendered_or_none(self._messages) or ""
        if all(text in rendered and json.dumps(text, ensure_ascii=False) not in rendered for text in texts):
            return
        self._messages = [_with_parsed_arguments(index, one) for index, one in enumerate(self._messages)]

    def check(self) -> None:
        """Check that the template writes every key, every role and every part.

        Raises:
            ValueError: It does not. The message names the key.
        """
        if self._tools and self.render() == self._template.render(self._messages, None, False):
            raise ValueError('the chat template does not write "tools"')
        for index, message in enumerate(self._messages):
            name = f'"messages"[{index}]'
            for key in message:
                is_link = message["role"] == "tool" and key in _LINKS
                if key not in ("role", "content") and not is_link and not self._writes_key(index, key):
                    raise ValueError(
                        f'the chat template does not write {name}["{key}"];'
                        " remove the key, or name it with --ignore-keys"
                    )
            if message["role"] not in _COMMON_ROLES and not self._writes_message(index):
                raise ValueError(f"the chat template does not write {name}, whose role is {excerpt(message['role'])}")
            if isinstance(message["content"], list):
                self._check_parts(index)

    def _rendered_or_none(self, messages: _Messages) -> Optional[str]:
        try:
            return self._template.render(messages, self._tools, False)
        except ValueError:
            return None

    def _writes_key(self, index: int, key: str) -> bool:
        """Return whether the text depends on a key of a message.

        Templates may write a key only while its message is the last one, for example a thought.
        """
        without = {name: value for name, value in self._messages[index].items() if name != key}
        head, tail = self._messages[:index], self._messages[index + 1 :]
        return any(
            self._rendered_or_none([*head, self._messages[index], *rest])
            != self._rendered_or_none([*head, without, *rest])
            for rest in ([], tail)
        )

    def _writes_message(self, index: int) -> bool:
        others = self._messages[:index] + self._messages[index + 1 :]
        return self.render() != self._rendered_or_none(others)

    def _check_parts(self, index: int) -> None:
        """Check that the template writes the texts of content parts, and not the list itself."""
        parts = self._messages[index]["content"]
        rendered = self.render(index + 1)
        texts = [part["text"].strip() for part in parts]
        if str(parts) in rendered or not all(text in rendered for text in texts):
            raise ValueError(
                f'the chat template does not write the parts of "messages"[{index}]["content"]; give one text'
            )

    def assistant_texts(self) -> List[List[Tuple[str, float]]]:
        """Return the texts of each example with their weights. Each assistant message follows its prompt."""
        messages = []
        for index, weight in enumerate(self._weights):
            if weight:
                prompt = self.render(index, add_generation_prompt=True)
                text = self.render(index + 1)
                if not text.startswith(prompt):
                    raise ValueError(
                        f'"messages"[{index}]: the chat template does not write this message after the prompt for it'
                    )
                messages.append((prompt, text, weight))
        last = messages[-1][1]
        if not all(last.startswith(text) for _, text, _ in messages):
            return [[(prompt, 0.0), (text[len(prompt) :], weight)] for prompt, text, weight in messages]
        texts: List[Tuple[str, float]] = []
        done = 0
        for prompt, text, weight in messages:
            texts += [(last[done : len(prompt)], 0.0), (last[len(prompt) : len(text)], weight)]
            done = len(text)
        return [texts]

    def learned_texts(self) -> List[List[Tuple[str, float]]]:
        """Return the texts of each example with their weights. The text between generation tags is learned."""
        marks = self._unused_marks()
        ends = [index + 1 for index, weight in enumerate(self._weights) if weight]
        texts = [self._template.render(self._messages[:end], self._tools, False, marks) for end in ends]
        plain = [text.replace(marks[0], "").replace(marks[1], "") for text in texts]
        if all(plain[-1].startswith(text) for text in plain):
            return [_split_marked(texts[-1], marks, self._assistant_weights(ends[-1], only_last=False))]
        return [
            _split_marked(text, marks, self._assistant_weights(end, only_last=True)) for text, end in zip(texts, ends)
        ]

    def _unused_marks(self) -> str:
        used = json.dumps([self._messages, self._tools], ensure_ascii=False) + self._template.text(bool(self._tools))
        return "".join([mark for mark in _MARKS if mark not in used][:2])

    def _assistant_weights(self, count: int, only_last: bool) -> List[float]:
        """Return the weights of the assistant messages among the first ``count``; the last one may count alone."""
        weights = [
            weight for message, weight in zip(self._messages[:count], self._weights) if message["role"] == "assistant"
        ]
        return [0.0] * (len(weights) - 1) + weights[-1:] if only_last else weights


def _split_marked(text: str, marks: str, weights: List[float]) -> List[Tuple[str, float]]:
    """Split a rendered text at its marks.

    Args:
        weights: The weight of each assistant message.

    Raises:
        ValueError: The blocks cannot be assigned to the assistant messages, or there is none.
    """
    blocks = text.count(marks[0])
    if not blocks:
        raise ValueError("the chat template marks no text that is learned, although it has generation tags")
    if blocks != len(weights):
        if len(set(weights)) > 1:
            raise ValueError(
                f"the chat template marks {blocks} texts for {len(weights)} assistant messages, so their weights"
                " cannot be assigned to them"
            )
        weights = weights[:1] * blocks
    first, *rest = text.split(marks[0])
    found = [(first, 0.0)]
    for block, weight in zip(rest, weights):
        learned, _, after = block.partition(marks[1])
        found += [(learned, weight), (after, 0.0)]
    return found


def _function_calls(message: Dict[str, Any]) -> List[Dict[str, Any]]:
    calls = message.get("tool_calls")
    functions = [
        call.get("function", call) for call in (calls if isinstance(calls, list) else []) if isinstance(call, dict)
    ]
    return [function for function in functions if isinstance(function, dict)]


def _with_parsed_arguments(index: int, message: Dict[str, Any]) -> Dict[str, Any]:
    """Return a copy of a message in which the arguments of tool calls are objects."""
    if not _function_calls(message):
        return message
    # The copy owns its calls.
    copy: Dict[str, Any] = json.loads(json.dumps(message))
    for function in _function_calls(copy):
        if isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"])
            except ValueError as error:
                raise ValueError(
                    f'"messages"[{index}]["tool_calls"]: the arguments {excerpt(function["arguments"])} are not'
                    f" JSON ({error})"
                ) from None
    return copy
