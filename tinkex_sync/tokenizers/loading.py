"""Tokenizers by the name a server gives: which one it is, loading it once per process. Source: PROTOCOL section 12.

The libraries (``tokenizers``, ``tiktoken``, ``transformers``) are imported when a tokenizer is asked for, never
before; the embedded server's tokenizer needs none.
"""

from __future__ import annotations

import importlib
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Optional

from ..errors import MissingExtraError, TinkexError
from .byte_tokenizer import ByteTokenizer
from .files import library, load_folder

__all__ = ["EMBEDDED", "TokenizerChoice", "TokenizerError", "choose", "load_tokenizer"]

#: The id under which the embedded server announces :class:`ByteTokenizer`.
EMBEDDED = "tinkex/tiny"

_KIMI = "moonshotai/Kimi-K2-Thinking"
_KIMI_REVISION = "612681931a8c906ddb349f8ad0f582cb552189cd"


class TokenizerError(TinkexError, OSError):
    """A tokenizer cannot be found or read; the text names it and says what to do."""


class _NamelessModel(TokenizerError, AssertionError):
    """The server does not say which model it is."""


@dataclass(frozen=True)
class TokenizerChoice:
    """Which tokenizer belongs to a model."""

    id: str
    #: Arguments of ``transformers.AutoTokenizer.from_pretrained``, where that has to load it.
    kwargs: Dict[str, Any] = field(default_factory=dict)


def choose(model_name: Optional[str], tokenizer_id: Optional[str] = None) -> TokenizerChoice:
    """The tokenizer of a model, from what POST /api/v1/get_info says about it.

    Raises:
        TokenizerError: ``model_name`` is None (an AssertionError too, as in the 0.7.0 client).
    """
    if model_name is None:
        raise _NamelessModel(
            "the server does not say which model this is, so its tokenizer is not known:"
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


_lock = threading.Lock()
_loaded: Dict[str, Future[Any]] = {}  # guarded by _lock


def _forget_loads_under_way() -> None:
    # In a forked child: the thread that loads is the parent's, and may have held the lock.
    global _lock
    _lock = threading.Lock()
    for name in [name for name, future in _loaded.items() if not future.done()]:
        del _loaded[name]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loads_under_way)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of an id on the Hugging Face hub, or of a local path; loaded once per process.

    A path is a directory with ``tokenizer.json`` or ``tiktoken.model``, or such a file; it needs no network. The
    result has ``encode(text, add_special_tokens=True)``, ``decode(ids, skip_special_tokens=False)``,
    ``bos_token_id``, ``eos_token_id``, ``vocab_size`` and ``apply_chat_template(messages, ...)``. Threads share it,
    and threads that ask for the same one at once wait for one load.

    Raises:
        MissingExtraError: a library is missing; the text says which extra brings it.
        TokenizerError: it cannot be found or read; the text says what to do.
    """
    if not isinstance(name, str) or not name:
        raise TokenizerError(
            f"{name!r} names no tokenizer: give an id such as 'Qwen/Qwen3-8B', or the path of a directory with"
            " tokenizer.json, to tinkex_sync.tokenizers.load_tokenizer"
        )
    path = Path(name)
    key = str(path.resolve()) if path.exists() else name
    mine: Optional[Future[Any]] = None
    with _lock:
        future = _loaded.get(key)
        if future is None:
            future = _loaded[key] = mine = Future()
    if mine is None:
        return future.result()
    try:
        tokenizer = _load(name)
    except BaseException as error:
        # Whoever asks next tries again.
        with _lock:
            _loaded.pop(key, None)
        mine.set_exception(error)
        raise
    mine.set_result(tokenizer)
    return tokenizer


def _load(name: str) -> Any:
    if name == EMBEDDED:
        return ByteTokenizer()
    path = Path(name)
    if path.exists():
        return _from_folder(path, name)
    tokenizer = _from_tml(name)
    return _from_hub(name) if tokenizer is None else tokenizer


def _from_tml(name: str) -> Any:
    try:
        module = importlib.import_module("tml_tokenizers")
    except ImportError:
        return None
    return module.get_tinker_tokenizer(name)


def _from_folder(path: Path, name: str) -> Any:
    try:
        tokenizer = load_folder(path)
    except MissingExtraError:
        raise
    except Exception as error:  # the Rust libraries raise bare Exception
        raise TokenizerError(f"tokenizer {name!r} cannot be read: {type(error).__name__}: {error}") from error
    if tokenizer is None:
        tokenizer = _from_transformers(str(path), {"fast": True}, name)
    return tokenizer


def _from_hub(name: str) -> Any:
    kwargs = choose(name, name).kwargs
    library("tokenizers")
    hub = library("huggingface_hub")
    errors = library("huggingface_hub.errors")
    missing = hub._CACHED_NO_EXIST

    def fetch(file: str, revision: Optional[str] = None) -> Optional[Path]:
        # Asking for what a commit is known to lack would end in the hub's retries where there is no network.
        if revision and hub.try_to_load_from_cache(name, file, revision=revision) is missing:
            return None
        try:
            return Path(hub.hf_hub_download(name, file, revision=revision or kwargs.get("revision")))
        except errors.LocalEntryNotFoundError:
            if hub.try_to_load_from_cache(name, file, revision=kwargs.get("revision")) is missing:
                return None
            raise
        except errors.EntryNotFoundError:
            return None

    try:
        found = None if name == _KIMI else fetch("tokenizer.json")
        found = found or fetch("tiktoken.model")
        if found is not None:
            for extra in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
                # Of the same commit, which is the name of the folder.
                _optional(fetch, extra, found.parent.name)
    except Exception as error:  # the hub's library lets through those of its HTTP client
        raise TokenizerError(
            f"tokenizer {name!r} cannot be fetched: {type(error).__name__}: {error}. Without a network, give the"
            " path of a directory with tokenizer.json (or tiktoken.model) to"
            " tinkex_sync.tokenizers.load_tokenizer, or set HF_HOME to a cache that holds it"
        ) from error
    if found is None:
        return _from_transformers(name, kwargs, name)
    return _from_folder(found, name)


def _optional(fetch: Any, file: str, commit: str) -> None:
    """Fetch what a tokenizer may do without; offline it is missing where the cache does not have it."""
    try:
        fetch(file, commit)
    except FileNotFoundError:
        return


def _from_transformers(source: str, kwargs: Dict[str, Any], name: str) -> Any:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise TokenizerError(
            f"tokenizer {name!r} has neither tokenizer.json nor tiktoken.model; other kinds are loaded by"
            " transformers: pip install transformers"
        ) from error
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **kwargs)
    except Exception as error:
        raise TokenizerError(
            f"tokenizer {name!r} cannot be loaded by transformers: {type(error).__name__}: {error}"
        ) from error
