"""Choose the tokenizer of a model and load it once per process.

The libraries ``tokenizers``, ``tiktoken`` and ``transformers`` are imported when a tokenizer is loaded, never before.
The tokenizer of the embedded server needs none of them.
"""

from __future__ import annotations

import importlib
import os
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional

from ..concurrency.primitives import ModuleLock
from ..errors import MissingExtraError, TinkexError
from .byte_tokenizer import ByteTokenizer
from .files import import_library, load_from_path

__all__ = ["EMBEDDED_TOKENIZER_ID", "TokenizerChoice", "TokenizerError", "choose_tokenizer", "load_tokenizer"]

#: The ``tokenizer_id`` that the embedded server returns. It stands for :class:`ByteTokenizer`.
EMBEDDED_TOKENIZER_ID = "tinkex/tiny"

_KIMI = "moonshotai/Kimi-K2-Thinking"
_KIMI_REVISION = "612681931a8c906ddb349f8ad0f582cb552189cd"


class TokenizerError(TinkexError, OSError):
    """A tokenizer cannot be found or read. The message names the tokenizer and the remedy."""


class _UnknownModelNameError(TokenizerError, AssertionError):
    """The server did not return the name of the model. An AssertionError too, as in the official SDK 0.7.0."""


@dataclass(frozen=True)
class TokenizerChoice:
    """The tokenizer that belongs to a model."""

    #: Identifier, a Hugging Face repository or a path.
    id: str
    #: Keyword arguments of ``transformers.AutoTokenizer.from_pretrained``, used only if transformers loads it.
    kwargs: Dict[str, Any] = field(default_factory=dict)


def choose_tokenizer(model_name: Optional[str], tokenizer_id: Optional[str] = None) -> TokenizerChoice:
    """Choose the tokenizer of a model from the fields of a response of POST /api/v1/get_info.

    Args:
        model_name: ``model_data.model_name`` of the response.
        tokenizer_id: ``model_data.tokenizer_id`` of the response. It takes precedence over ``model_name``.

    Returns:
        The identifier of the tokenizer, with the arguments to load it.

    Raises:
        TokenizerError: ``model_name`` is None.
    """
    if model_name is None:
        raise _UnknownModelNameError(
            "the server did not return the model's name, so its tokenizer is unknown:"
            " load one with tinkex_sync.tokenizers.load_tokenizer(id or path)"
        )
    if tokenizer_id is not None:
        chosen = tokenizer_id
    elif model_name.startswith("meta-llama/Llama-3"):
        chosen = "thinkingmachineslabinc/meta-llama-3-tokenizer"
    elif model_name.count("/") == 2 and not Path(model_name).is_dir():
        chosen = model_name.rpartition("/")[0]
    else:
        chosen = model_name
    kwargs: Dict[str, Any] = {"fast": True}
    if chosen == _KIMI:
        kwargs.update(trust_remote_code=True, revision=_KIMI_REVISION)
    return TokenizerChoice(chosen, kwargs)


_lock = ModuleLock()
_loaded: Dict[str, Future[Any]] = {}  # guarded by _lock


def _discard_unfinished_loads() -> None:
    # Runs in a forked child. The loading thread exists in the parent only.
    for name in [name for name, future in _loaded.items() if not future.done()]:
        del _loaded[name]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_discard_unfinished_loads)


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer, once per process.

    Concurrent calls with the same name wait for one load and return the same object. Threads may share it.

    Args:
        name: An identifier on the Hugging Face hub, or a local path. A path is a directory that contains
            ``tokenizer.json`` or ``tiktoken.model``, or one of these files. A path needs no network.

    Returns:
        An object with ``encode(text, add_special_tokens=True)``, ``decode(ids, skip_special_tokens=False)``,
        ``bos_token_id``, ``eos_token_id``, ``vocab_size`` and ``apply_chat_template(messages, ...)``.

    Raises:
        MissingExtraError: A library is not installed. The message names the extra that installs it.
        TokenizerError: The tokenizer cannot be found or read. The message states the remedy.
    """
    if not isinstance(name, str) or not name:
        raise TokenizerError(
            f"{name!r} is not the name of a tokenizer: pass an id such as 'Qwen/Qwen3-8B', or the path of a directory"
            " that contains tokenizer.json, to tinkex_sync.tokenizers.load_tokenizer"
        )
    path = Path(name)
    key = str(path.resolve()) if path.exists() else name
    own_load: Optional[Future[Any]] = None
    with _lock:
        future = _loaded.get(key)
        if future is None:
            future = _loaded[key] = own_load = Future()
    if own_load is None:
        return future.result()
    try:
        tokenizer = _load(name)
    except BaseException as error:
        # A later call tries again.
        with _lock:
            _loaded.pop(key, None)
        own_load.set_exception(error)
        raise
    own_load.set_result(tokenizer)
    return tokenizer


def _load(name: str) -> Any:
    if name == EMBEDDED_TOKENIZER_ID:
        return ByteTokenizer()
    path = Path(name)
    if path.exists():
        return _load_from_path(path, name)
    tokenizer = _load_from_tml(name)
    return _load_from_hub(name) if tokenizer is None else tokenizer


def _load_from_tml(name: str) -> Any:
    """Load a tokenizer with the package ``tml_tokenizers``. Return None if it is not installed or has none."""
    try:
        module = importlib.import_module("tml_tokenizers")
    except ImportError:
        return None
    return module.get_tinker_tokenizer(name)


def _load_from_path(path: Path, name: str) -> Any:
    try:
        tokenizer = load_from_path(path)
    except MissingExtraError:
        raise
    except Exception as error:  # the Rust libraries raise bare Exception
        raise TokenizerError(f"tokenizer {name!r} cannot be read: {type(error).__name__}: {error}") from error
    if tokenizer is None:
        tokenizer = _load_with_transformers(str(path), {"fast": True}, name)
    return tokenizer


class _HubFiles:
    """Download the files of one repository on the Hugging Face hub into its cache."""

    def __init__(self, name: str, default_revision: Optional[str]) -> None:
        self._name = name
        self._default_revision = default_revision
        self._hub = import_library("huggingface_hub")
        self._errors = import_library("huggingface_hub.errors")

    def fetch(self, file: str, revision: Optional[str] = None) -> Optional[Path]:
        """Return the local path of a file, downloading it if needed. Return None if the repository lacks it."""
        # A request for a file that a cached commit lacks would end in the hub's retries if there is no network.
        if revision and self._is_known_to_be_missing(file, revision):
            return None
        wanted = revision or self._default_revision
        try:
            return Path(self._hub.hf_hub_download(self._name, file, revision=wanted))
        except self._errors.LocalEntryNotFoundError:
            if self._is_known_to_be_missing(file, self._default_revision):
                return None
            raise
        except self._errors.EntryNotFoundError:
            return None

    def fetch_optional(self, file: str, revision: str) -> None:
        """Fetch a file that a tokenizer does not need. Offline, a file that is not in the cache counts as missing."""
        try:
            self.fetch(file, revision)
        except FileNotFoundError:
            return

    def _is_known_to_be_missing(self, file: str, revision: Optional[str]) -> bool:
        cached = self._hub.try_to_load_from_cache(self._name, file, revision=revision)
        # The hub returns a path, None if it does not know, or a marker object for a file known to be missing.
        return cached is not None and not isinstance(cached, str)


def _load_from_hub(name: str) -> Any:
    kwargs = choose_tokenizer(name, name).kwargs
    import_library("tokenizers")
    files = _HubFiles(name, kwargs.get("revision"))
    try:
        found = None if name == _KIMI else files.fetch("tokenizer.json")
        found = found or files.fetch("tiktoken.model")
        if found is not None:
            for extra in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
                # The folder is named after the commit. All files must come from the same commit.
                files.fetch_optional(extra, found.parent.name)
    except Exception as error:  # the hub's library does not wrap the errors of its HTTP client
        raise TokenizerError(
            f"tokenizer {name!r} cannot be fetched: {type(error).__name__}: {error}. Without a network, pass the"
            " path of a directory that contains tokenizer.json (or tiktoken.model) to"
            " tinkex_sync.tokenizers.load_tokenizer, or set HF_HOME to a cache that contains it"
        ) from error
    if found is None:
        return _load_with_transformers(name, kwargs, name)
    return _load_from_path(found, name)


def _load_with_transformers(source: str, kwargs: Dict[str, Any], name: str) -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise TokenizerError(
            f"tokenizer {name!r} has neither tokenizer.json nor tiktoken.model. Tokenizers of other formats need"
            " transformers: pip install transformers"
        ) from error
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **kwargs)
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name!r} cannot be loaded by transformers: {type(error).__name__}: {error}"
        ) from error
