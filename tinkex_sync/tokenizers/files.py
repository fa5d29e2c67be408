"""Tokenizers from the files of a model: ``tokenizer.json`` by tokenizers, ``tiktoken.model`` by tiktoken."""

from __future__ import annotations

import abc
import base64
import importlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

from ..errors import MissingExtraError

__all__ = ["FastTokenizer", "FileTokenizer", "TiktokenTokenizer", "library", "load_folder"]

#: How Kimi K2 cuts text before merging; tiktoken.model does not say. Han runs stand alone.
_KIMI_PATTERN = "|".join(
    (
        r"[\p{Han}]+",
        *(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
            + many
            + r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
            + then
            + r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
            for many, then in (("*", "+"), ("+", "*"))
        ),
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
_KIMI_SPECIALS = 258
#: What tiktoken can take at once, and how long a run of spaces or of others may be: characters. The model's own
#: tokenizer cuts there, so the tokens are these only if we do.
_LONGEST, _LONGEST_RUN = 400_000, 25_000

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
#: The tokens ``tokenizer_config.json`` names by what they are for.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def library(name: str) -> Any:
    """Import an optional library.

    Raises:
        MissingExtraError: it cannot be imported; the text says which extra brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f'this tokenizer needs {name}: pip install "tinkex-sync[tokenizers]" ({error})'
        ) from error


def load_folder(path: Path) -> Optional[FileTokenizer]:
    """The tokenizer of a directory, or of one file and what lies beside it; None if there is none we can read."""
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "tiktoken.model") if (path / name).exists()]
        if not found:
            return None
        path = found[0]
    kind = FastTokenizer if path.name.endswith(".json") else TiktokenTokenizer
    return kind(path)


class FileTokenizer(abc.ABC):
    """What all tokenizers read from files have in common. Immutable, so threads may share it.

    Special tokens and the chat template come from ``tokenizer_config.json``, ``special_tokens_map.json`` and
    ``chat_template.jinja`` beside the file, as far as they exist.
    """

    def __init__(self, path: Path) -> None:
        self.name_or_path = str(path.parent)
        names = ("special_tokens_map.json", "tokenizer_config.json")
        self._config: Dict[str, Any] = {}
        for name in names:
            if (path.parent / name).exists():
                self._config.update(json.loads((path.parent / name).read_text(encoding="utf-8")))
        template = path.parent / "chat_template.jinja"
        if template.exists():
            self._config["chat_template"] = template.read_text(encoding="utf-8")

    def _special(self, name: str) -> Optional[str]:
        return _content(self._config.get(name))

    @property
    def bos_token(self) -> Optional[str]:
        """Text of the token a sequence begins with, if there is one."""
        return self._special("bos_token")

    @property
    def eos_token(self) -> Optional[str]:
        """Text of the token a sequence ends with, if there is one."""
        return self._special("eos_token")

    @property
    def bos_token_id(self) -> Optional[int]:
        """The token a sequence begins with, if there is one."""
        return None if self.bos_token is None else self._id(self.bos_token)

    @property
    def eos_token_id(self) -> Optional[int]:
        """The token a sequence ends with, if there is one."""
        return None if self.eos_token is None else self._id(self.eos_token)

    @property
    def chat_template(self) -> Any:
        """The model's own Jinja template, or several by name, as its files have it; None if they have none."""
        return self._config.get("chat_template")

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """How many tokens there are; those added later are not counted by ``tokenizer.json``."""

    @abc.abstractmethod
    def _id(self, token: str) -> Optional[int]: ...

    @abc.abstractmethod
    def _encode(self, text: str, add_special_tokens: bool) -> List[int]: ...

    @abc.abstractmethod
    def _decode(self, tokens: List[int], skip_special_tokens: bool) -> str: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> List[int]:
        """The tokens of ``text``; special tokens written out in it count as such.

        Args:
            add_special_tokens: Put those around it that the model expects, such as the first one.
        """
        if not isinstance(text, str):
            raise TypeError(f"text to encode must be a str, not {type(text).__name__}: {text!r}")
        return self._encode(text, add_special_tokens)

    def decode(self, ids: Union[int, Iterable[int]], skip_special_tokens: bool = False) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: an id is negative.
        """
        tokens = [ids] if isinstance(ids, int) else [int(token) for token in ids]
        for index, token in enumerate(tokens):
            if token < 0:
                raise ValueError(f"token {token} at index {index} is negative, and no token is")
        return self._decode(tokens, skip_special_tokens)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Optional[Sequence[Any]] = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        chat_template: Optional[str] = None,
        **values: Any,
    ) -> Union[str, List[int]]:
        """A conversation in the form the model was trained on: tokens, or text with ``tokenize=False``.

        Args:
            conversation: Messages, each with "role" and "content".
            chat_template: A Jinja template instead of the model's own.
            values: More variables of the template.

        Raises:
            ValueError: the model has no chat template, or the template refuses the conversation.
            MissingExtraError: jinja2 is not installed.
        """
        template: Any = chat_template or self._config.get("chat_template")
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            template = (named.get("tool_use") if tools else None) or named.get("default")
        if not template:
            raise ValueError(f"{self.name_or_path} has no chat template: give chat_template=")
        sandbox = library("jinja2.sandbox")
        errors = library("jinja2.exceptions")
        # Templates come with the model, from strangers.
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        texts = {name: self._special(name) for name in _NAMED}
        variables = {**{name: text for name, text in texts.items() if text is not None}, **values}
        try:
            text: str = environment.from_string(template).render(
                messages=list(conversation),
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
        except errors.TemplateError as error:
            raise ValueError(f"the chat template of {self.name_or_path}: {error}") from error
        # The template has written the special tokens itself.
        return self.encode(text, add_special_tokens=False) if tokenize else text


def _content(token: Any) -> Optional[str]:
    """The text of a token, which configurations give plainly or among its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _to_json(value: Any, indent: Optional[int] = None, **options: Any) -> str:
    # Jinja's own escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _refuse(message: str) -> None:
    raise ValueError(message)


class FastTokenizer(FileTokenizer):
    """``tokenizer.json``, by the tokenizers library."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        #: The library's own object.
        self.backend: Any = library("tokenizers").Tokenizer.from_file(str(path))
        # A file may ask for them, and a prompt must not be cut or padded unasked.
        self.backend.no_truncation()
        self.backend.no_padding()
        self._add_declared()

    def _add_declared(self) -> None:
        """Add the tokens that only the configuration knows, as transformers does."""
        token_type = library("tokenizers").AddedToken
        known = {repr(token) for token in self.backend.get_added_tokens_decoder().values()}
        declared = self._config.get("added_tokens_decoder", {})
        for _, options in sorted(declared.items(), key=lambda item: int(item[0])):
            flags = {name: options[name] for name in _FLAGS if name in options}
            token = token_type(options["content"], **flags)
            if repr(token) not in known:
                self.backend.add_tokens([token])
        known_texts = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        more = self._config.get("additional_special_tokens") or []
        for value in (*map(self._special, _NAMED), *(_content(token) for token in more)):
            if value is not None and value not in known_texts:
                self.backend.add_special_tokens([value])

    @property
    def vocab_size(self) -> int:
        """How many tokens the model knows, without those added later (as transformers counts)."""
        size: int = self.backend.get_vocab_size(with_added_tokens=False)
        return size

    def _id(self, token: str) -> Optional[int]:
        found: Optional[int] = self.backend.token_to_id(token)
        return found

    def _encode(self, text: str, add_special_tokens: bool) -> List[int]:
        tokens: List[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return tokens

    def _decode(self, tokens: List[int], skip_special_tokens: bool) -> str:
        text: str = self.backend.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text


class TiktokenTokenizer(FileTokenizer):
    """``tiktoken.model`` as Kimi K2 ships it: base64 and rank per line; it adds no special tokens."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        tiktoken = library("tiktoken")
        ranks = {}
        # Not by tiktoken.load, which keeps copies by path and gives old ones back.
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if line:
                try:
                    token, rank = line.split()
                    ranks[base64.b64decode(token, validate=True)] = int(rank)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number} is not base64 and a rank: {line!r}") from error
        added = {int(key): value for key, value in self._config.get("added_tokens_decoder", {}).items()}
        first = len(ranks)
        names = {number: f"<|reserved_token_{number}|>" for number in range(first, first + _KIMI_SPECIALS)}
        names.update((number, value["content"]) for number, value in added.items())
        self._ids = {name: number for number, name in names.items()}
        self._special_ids = frozenset(
            number for number, value in added.items() if value.get("special", True)
        ) | frozenset(self._ids[name] for name in map(self._special, _NAMED) if name in self._ids)
        #: The library's own object.
        self.backend: Any = tiktoken.Encoding(
            path.name, pat_str=_KIMI_PATTERN, mergeable_ranks=ranks, special_tokens=self._ids
        )

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, special ones included."""
        size: int = self.backend.n_vocab
        return size

    def _id(self, token: str) -> Optional[int]:
        return self._ids.get(token)

    def _encode(self, text: str, add_special_tokens: bool) -> List[int]:
        tokens: List[int] = []
        for start in range(0, len(text), _LONGEST):
            for piece in _cut_in_runs(text[start : start + _LONGEST]):
                tokens += self.backend.encode(piece, allowed_special="all")
        return tokens

    def apply_chat_template(self, conversation: Any, tools: Any = None, **options: Any) -> Any:
        # As the model's own tokenizer, which sorts the keys of the tools.
        return super().apply_chat_template(conversation, _sorted(tools), **options)

    def _decode(self, tokens: List[int], skip_special_tokens: bool) -> str:
        if skip_special_tokens:
            tokens = [token for token in tokens if token not in self._special_ids]
        try:
            text: str = self.backend.decode(tokens, errors="replace")
        except KeyError as error:
            raise ValueError(f"{error} is no token of this tokenizer: there are {self.vocab_size}") from error
        return text


def _cut_in_runs(text: str) -> Iterator[str]:
    start = 0
    for run in re.finditer(r"\s+|\S+", text):
        for cut in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN):
            yield text[start:cut]
            start = cut
    yield text[start:]


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(inner) for key, inner in sorted(value.items())}
    return [_sorted(inner) for inner in value] if isinstance(value, (list, tuple)) else value
