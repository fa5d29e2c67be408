"""Tokenizers from the files of a model.

``tokenizer.json`` is read by the library tokenizers, ``tiktoken.model`` by the library tiktoken.
"""

from __future__ import annotations

import abc
import base64
import functools
import importlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from ..errors import MissingExtraError
from .interface import SpecialToken, SpecialTokenId, TransformersInterface

__all__ = ["FastTokenizer", "FileTokenizer", "TiktokenTokenizer", "import_library", "load_from_path"]

#: The pattern by which Kimi K2 splits text before merging. It is not in tiktoken.model. Runs of Han characters are
#: pieces of their own.
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
#: The most characters that tiktoken encodes in one call, and the most in one run of spaces or of other characters.
#: The model's own tokenizer splits there, so equal tokens need equal splits.
_MAX_CHARACTERS, _MAX_RUN = 400_000, 25_000

_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
#: The keys of ``tokenizer_config.json`` that name one special token each.
_SPECIAL_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def import_library(name: str) -> Any:
    """Import an optional library.

    Args:
        name: The dotted name of the module.

    Returns:
        The module.

    Raises:
        MissingExtraError: The library cannot be imported. The message names the extra that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f'this tokenizer needs {name}: pip install "tinkex-sync[tokenizers]" ({error})'
        ) from error


def load_from_path(path: Path) -> Optional[FileTokenizer]:
    """Load the tokenizer of a directory or of one file.

    Args:
        path: A directory, or a file with its configuration files in the same directory.

    Returns:
        The tokenizer, or None if the directory contains neither ``tokenizer.json`` nor ``tiktoken.model``.

    Raises:
        MissingExtraError: The library that reads the file is not installed.
        ValueError: The file is damaged.
    """
    if path.is_dir():
        found = [path / name for name in ("tokenizer.json", "tiktoken.model") if (path / name).exists()]
        if not found:
            return None
        path = found[0]
    kind = FastTokenizer if path.name.endswith(".json") else TiktokenTokenizer
    return kind(path)


class FileTokenizer(TransformersInterface):
    """Base class of the tokenizers that are read from files.

    Special tokens and the chat template are read from ``tokenizer_config.json``, ``special_tokens_map.json`` and
    ``chat_template.jinja`` in the directory of the file, if these exist.

    Threads may share an instance, unless one of them sets a special token.
    """

    bos_token, bos_token_id = SpecialToken(), SpecialTokenId()
    eos_token, eos_token_id = SpecialToken(), SpecialTokenId()

    def __init__(self, path: Path) -> None:
        names = ("special_tokens_map.json", "tokenizer_config.json")
        self._config: Dict[str, Any] = {}
        for name in names:
            if (path.parent / name).exists():
                self._config.update(json.loads((path.parent / name).read_text(encoding="utf-8")))
        template = path.parent / "chat_template.jinja"
        if template.exists():
            self._config["chat_template"] = template.read_text(encoding="utf-8")
        texts = {name: _token_text(self._config.get(name)) for name in _SPECIAL_TOKEN_KEYS}
        super().__init__(str(path.parent), {name: text for name, text in texts.items() if text is not None})
        additional = self._config.get("additional_special_tokens") or []
        self.additional_special_tokens = [text for text in map(_token_text, additional) if text is not None]
        self.model_max_length = int(self._config.get("model_max_length") or self.model_max_length)
        self.padding_side = self._config.get("padding_side") or self.padding_side

    @property
    def chat_template(self) -> Any:
        """The Jinja template of the model's files: one text, a list of named templates, or None."""
        return self._config.get("chat_template")

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """The number of tokens. For ``tokenizer.json``, added tokens are not counted."""

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Optional[Sequence[Any]] = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        chat_template: Optional[str] = None,
        return_dict: bool = False,
        return_tensors: Optional[str] = None,
        **values: Any,
    ) -> Any:
        """Render a conversation with the chat template of the model.

        Args:
            conversation: Messages, each with "role" and "content".
            tools: Tool descriptions for the template.
            tokenize: Return token ids. False: return text.
            add_generation_prompt: End with the prefix of an assistant message.
            chat_template: A Jinja template to use instead of the model's own.
            return_dict: Return what calling the tokenizer returns. Also needs ``tokenize``.
            return_tensors: "pt" or "np", as in ``encode``.
            values: Further variables of the template.

        Returns:
            Token ids, or the text if ``tokenize`` is False.

        Raises:
            TypeError: An option of transformers is not supported, such as ``continue_final_message``.
            ValueError: The model has no chat template, or the template rejects the conversation.
            MissingExtraError: jinja2 is not installed.
        """
        _check_chat(conversation, values)
        template = self._template(chat_template, has_tools=bool(tools))
        errors = import_library("jinja2.exceptions")
        variables = {**self.special_tokens, **values}
        try:
            text: str = _compile_template(template).render(
                messages=list(conversation), tools=tools, add_generation_prompt=add_generation_prompt, **variables
            )
        except errors.TemplateError as error:
            raise ValueError(f"the chat template of {self.name_or_path}: {error}") from error
        # The rendered text already contains the special tokens.
        if not tokenize:
            return text
        convert = self if return_dict else self.encode
        return convert(text, add_special_tokens=False, return_tensors=return_tensors)

    def _template(self, chat_template: Optional[str], *, has_tools: bool) -> str:
        template: Any = chat_template or self._config.get("chat_template")
        if isinstance(template, list):
            named = {entry["name"]: entry["template"] for entry in template}
            template = (named.get("tool_use") if has_tools else None) or named.get("default")
        if not template:
            raise ValueError(f"{self.name_or_path} has no chat template: pass chat_template=")
        return str(template)


#: Options of transformers that are no variables of a template.
_CHAT_OPTIONS = ("continue_final_message", "max_length", "padding", "return_assistant_tokens_mask", "truncation")


def _check_chat(conversation: Sequence[Any], values: Mapping[str, Any]) -> None:
    refused = [name for name in _CHAT_OPTIONS if values.get(name)]
    if refused:
        raise TypeError(f"apply_chat_template() does not support {', '.join(refused)}")
    if any(isinstance(message, (list, tuple)) for message in conversation):
        raise TypeError("apply_chat_template() takes one conversation, not a list of conversations")


#: The tag around text that is learned in training. It has no effect on the rendered text.
_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


# Compiling a template takes milliseconds, as long as rendering a hundred conversations.
@functools.lru_cache(maxsize=32)
def _compile_template(source: str) -> Any:
    """Compile a chat template, with the filter and functions that templates on the hub use."""
    # A sandbox, because templates are downloaded with the model and are not trusted.
    environment = import_library("jinja2.sandbox").ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_value_error
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    without_effect = _GENERATION_TAG.sub(
        lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", source
    )
    return environment.from_string(without_effect)


def _token_text(token: Any) -> Optional[str]:
    """Return the text of a token. Configuration files contain the text itself or an object with flags."""
    return token.get("content") if isinstance(token, dict) else token


def _to_json(value: Any, indent: Optional[int] = None, **options: Any) -> str:
    # Jinja's own filter escapes the text for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _raise_value_error(message: str) -> None:
    raise ValueError(message)


class FastTokenizer(FileTokenizer):
    """A tokenizer read from ``tokenizer.json`` by the library tokenizers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        #: The object of the library.
        self.backend: Any = import_library("tokenizers").Tokenizer.from_file(str(path))
        # The file can enable both, and a prompt must not be truncated or padded.
        self.backend.no_truncation()
        self.backend.no_padding()
        self._add_configured_tokens()

    def _add_configured_tokens(self) -> None:
        """Add the tokens that only the configuration lists, as transformers does."""
        token_type = import_library("tokenizers").AddedToken
        known = {repr(token) for token in self.backend.get_added_tokens_decoder().values()}
        configured = self._config.get("added_tokens_decoder", {})
        for _, options in sorted(configured.items(), key=lambda item: int(item[0])):
            flags = {name: options[name] for name in _TOKEN_FLAGS if name in options}
            token = token_type(options["content"], **flags)
            if repr(token) not in known:
                self.backend.add_tokens([token])
        known_texts = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        for value in self.all_special_tokens:
            if value not in known_texts:
                self.backend.add_special_tokens([value])

    @property
    def vocab_size(self) -> int:
        """The number of tokens without added tokens, as transformers counts."""
        size: int = self.backend.get_vocab_size(with_added_tokens=False)
        return size

    def token_to_id(self, token: str) -> Optional[int]:
        """Return the id of a token; None if the vocabulary does not contain it."""
        found: Optional[int] = self.backend.token_to_id(token)
        return found

    def id_to_token(self, number: int) -> Optional[str]:
        """Return the token with an id; None outside the vocabulary."""
        found: Optional[str] = self.backend.id_to_token(number) if number >= 0 else None
        return found

    def get_vocab(self) -> Dict[str, int]:
        """Return the ids of all tokens, added tokens included."""
        vocabulary: Dict[str, int] = self.backend.get_vocab(with_added_tokens=True)
        return vocabulary

    def __len__(self) -> int:
        size: int = self.backend.get_vocab_size(with_added_tokens=True)
        return size

    def encode_text(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool, limit: Optional[int]
    ) -> List[int]:
        """Encode one text; truncation keeps the special tokens around it."""
        backend = self._splitting_backend if split_special_tokens else self.backend
        if limit is None:
            tokens: List[int] = backend.encode(text, add_special_tokens=add_special_tokens).ids
            return tokens
        encoded = backend.encode(text, add_special_tokens=False)
        added = backend.num_special_tokens_to_add(False) if add_special_tokens else 0
        encoded.truncate(max(0, limit - added))
        return list(backend.post_process(encoded, None, add_special_tokens).ids)

    @functools.cached_property
    def _splitting_backend(self) -> Any:
        # A copy, because the setting belongs to the object of the library, which other threads use.
        backend = import_library("tokenizers").Tokenizer.from_str(self.backend.to_str())
        backend.encode_special_tokens = True
        return backend

    def decode_tokens(self, tokens: List[int], skip_special_tokens: bool) -> str:
        """Decode token ids to text; ids that the vocabulary does not contain have no text."""
        for index, token in enumerate(tokens):
            if token < 0:
                raise ValueError(f"token {token} at index {index} is negative: use token ids of 0 or more")
        text: str = self.backend.decode(tokens, skip_special_tokens=skip_special_tokens)
        return text


class TiktokenTokenizer(FileTokenizer):
    """A tokenizer read from ``tiktoken.model``, in the format of Kimi K2: base64 and rank per line.

    ``encode`` never adds special tokens.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        tiktoken = import_library("tiktoken")
        self._ranks = ranks = _read_ranks(path)
        added = {int(key): value for key, value in self._config.get("added_tokens_decoder", {}).items()}
        first = len(ranks)
        names = {number: f"<|reserved_token_{number}|>" for number in range(first, first + _KIMI_SPECIALS)}
        names.update((number, value["content"]) for number, value in added.items())
        self._ids = {name: number for number, name in names.items()}
        self._special_ids = frozenset(
            [number for number, value in added.items() if value.get("special", True)]
            + [self._ids[name] for name in self.special_tokens.values() if name in self._ids]
        )
        #: The object of the library.
        self.backend: Any = tiktoken.Encoding(
            path.name, pat_str=_KIMI_PATTERN, mergeable_ranks=ranks, special_tokens=self._ids
        )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special tokens included."""
        size: int = self.backend.n_vocab
        return size

    def token_to_id(self, token: str) -> Optional[int]:
        """Return the id of a token; None if the vocabulary does not contain it."""
        return self._vocabulary.get(token)

    def id_to_token(self, number: int) -> Optional[str]:
        """Return the token with an id, its bytes as Latin-1 text; None outside the vocabulary."""
        try:
            return _latin(self.backend.decode_single_token_bytes(number))
        except KeyError:
            return None

    def get_vocab(self) -> Dict[str, int]:
        """Return the ids of all tokens, special tokens included."""
        return dict(self._vocabulary)

    def __len__(self) -> int:
        return self.vocab_size

    @functools.cached_property
    def _vocabulary(self) -> Dict[str, int]:
        plain = {_latin(token): rank for token, rank in self._ranks.items()}
        return {**plain, **self._ids}

    def encode_text(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool, limit: Optional[int]
    ) -> List[int]:
        """Encode one text. No special tokens are added."""
        options: Dict[str, Any] = {"allowed_special": "all"}
        if split_special_tokens:
            options = {"allowed_special": set(), "disallowed_special": ()}
        tokens: List[int] = []
        for start in range(0, len(text), _MAX_CHARACTERS):
            for piece in _split_long_runs(text[start : start + _MAX_CHARACTERS]):
                tokens += self.backend.encode(piece, **options)
        return tokens[:limit]

    def apply_chat_template(self, conversation: Any, tools: Any = None, **options: Any) -> Any:
        """Render a conversation as :meth:`FileTokenizer.apply_chat_template` does, with the keys of tools sorted."""
        # The model's own tokenizer sorts the keys.
        return super().apply_chat_template(conversation, _with_sorted_keys(tools), **options)

    def decode_tokens(self, tokens: List[int], skip_special_tokens: bool) -> str:
        """Decode token ids to text; ValueError for an id that the vocabulary does not contain."""
        if skip_special_tokens:
            tokens = [token for token in tokens if token not in self._special_ids]
        try:
            text: str = self.backend.decode(tokens, errors="replace")
        except KeyError as error:
            raise ValueError(f"token {error} is outside the vocabulary of {self.vocab_size} tokens") from error
        return text


def _latin(token: bytes) -> str:
    return token.decode("latin-1")


def _read_ranks(path: Path) -> Dict[bytes, int]:
    """Read the lines of ``tiktoken.model``, each a token in base64 and its rank."""
    ranks = {}
    # Not tiktoken.load: it caches by path and returns the contents of an overwritten file.
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line:
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number} is not base64 and a rank, separated by a space: {line!r}"
                ) from error
    return ranks


def _split_long_runs(text: str) -> Iterator[str]:
    start = 0
    for run in re.finditer(r"\s+|\S+", text):
        for cut in range(run.start() + _MAX_RUN, run.end(), _MAX_RUN):
            yield text[start:cut]
            start = cut
    yield text[start:]


def _with_sorted_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_sorted_keys(inner) for key, inner in sorted(value.items())}
    return [_with_sorted_keys(inner) for inner in value] if isinstance(value, (list, tuple)) else value
