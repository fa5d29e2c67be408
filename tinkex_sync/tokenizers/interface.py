"""The interface of transformers' tokenizers, as far as training scripts and chat renderers use it.

A subclass supplies a few functions for one text or one token. An option that this interface does not have is a
TypeError, so that no option is ignored.
"""

from __future__ import annotations

import abc
import importlib
from typing import Any, Dict, Iterable, List, Literal, Mapping, Optional, Sequence, Tuple, Union

__all__ = ["Encoding", "SpecialToken", "SpecialTokenId", "TransformersInterface"]

_Padding = Union[bool, Literal["longest", "max_length"]]
#: ``model_max_length`` of a tokenizer whose files do not state it, as in transformers.
_NO_LIMIT = int(1e30)


class Encoding(Dict[str, Any]):
    """The result of calling a tokenizer: ``input_ids`` and ``attention_mask``, as keys and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"'Encoding' has no attribute {name!r}") from None

    def to(self, device: Any) -> Encoding:
        """Return the tensors on a device; other values unchanged."""
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in self.items()}
        return Encoding(moved)


class SpecialToken:
    """Descriptor for the text of a special token, such as ``pad_token``; None if there is none. It can be set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: Optional[type] = None) -> Any:
        return self if instance is None else instance.special_tokens.get(self._name)

    def __set__(self, instance: Any, text: Optional[str]) -> None:
        if text is None:
            instance.special_tokens.pop(self._name, None)
        elif instance.convert_tokens_to_ids([text], unknown=None) == [None]:
            raise ValueError(f"{self._name} must be a token of the vocabulary, not {text!r}")
        else:
            instance.special_tokens[self._name] = text


class SpecialTokenId:
    """Descriptor for the id of a special token, such as ``pad_token_id``; None if there is none."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name.replace("_id", "")

    def __get__(self, instance: Any, owner: Optional[type] = None) -> Any:
        if instance is None:
            return self
        text = instance.special_tokens.get(self._name)
        return None if text is None else instance.convert_tokens_to_ids([text], unknown=None)[0]


class TransformersInterface(abc.ABC):
    """Base class of the tokenizers of this package.

    Threads may share an instance, unless one of them sets a special token.
    """

    is_fast = True
    padding_side = "right"
    unk_token, unk_token_id = SpecialToken(), SpecialTokenId()
    sep_token, sep_token_id = SpecialToken(), SpecialTokenId()
    pad_token, pad_token_id = SpecialToken(), SpecialTokenId()
    cls_token, cls_token_id = SpecialToken(), SpecialTokenId()
    mask_token, mask_token_id = SpecialToken(), SpecialTokenId()

    def __init__(self, name_or_path: str, special_tokens: Mapping[str, str]) -> None:
        #: The name by which renderers choose the format of a chat.
        self.name_or_path = name_or_path
        #: Texts of the special tokens by name, such as "pad_token".
        self.special_tokens: Dict[str, str] = dict(special_tokens)
        #: Special tokens without a name of their own.
        self.additional_special_tokens: List[str] = []
        self.model_max_length = _NO_LIMIT

    # What a subclass supplies

    @abc.abstractmethod
    def encode_text(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool, limit: Optional[int]
    ) -> List[int]:
        """Encode one text.

        Args:
            split_special_tokens: Encode special tokens that are written out in the text as plain text.
            limit: The most tokens to return, special tokens included; None for all.
        """

    @abc.abstractmethod
    def decode_tokens(self, tokens: List[int], skip_special_tokens: bool) -> str:
        """Decode token ids to text."""

    @abc.abstractmethod
    def token_to_id(self, token: str) -> Optional[int]:
        """Return the id of a token; None if the vocabulary does not contain it."""

    @abc.abstractmethod
    def id_to_token(self, number: int) -> Optional[str]:
        """Return the token with an id; None if the vocabulary does not contain it."""

    @abc.abstractmethod
    def get_vocab(self) -> Dict[str, int]:
        """Return the ids of all tokens, added tokens included."""

    # Encoding and decoding

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        *,
        split_special_tokens: bool = False,
        truncation: Optional[bool] = None,
        max_length: Optional[int] = None,
        return_tensors: Optional[str] = None,
    ) -> Any:
        """Encode text as token ids. Special tokens that are written out in the text are recognized.

        Args:
            text: The text to encode.
            add_special_tokens: Add the special tokens that the model expects around a text.
            split_special_tokens: Encode special tokens that are written out in the text as plain text.
            truncation: Return at most ``max_length`` tokens. None: if ``max_length`` is given.
            max_length: The limit, special tokens included; None: ``model_max_length``.
            return_tensors: "pt" for a torch tensor, "np" for a numpy array, of shape [1, tokens].

        Returns:
            The token ids.

        Raises:
            TypeError: ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"text to encode must be a str, not {type(text).__name__}: {text!r}")
        is_limited = max_length is not None if truncation is None else truncation
        limit = (self.model_max_length if max_length is None else max_length) if is_limited else None
        tokens = self.encode_text(
            text, add_special_tokens=add_special_tokens, split_special_tokens=split_special_tokens, limit=limit
        )
        return tokens if return_tensors is None else _tensor([tokens], return_tensors)

    def __call__(
        self,
        text: Union[str, Sequence[str]],
        *,
        add_special_tokens: bool = True,
        padding: _Padding = False,
        truncation: Optional[bool] = None,
        max_length: Optional[int] = None,
        return_tensors: Optional[str] = None,
        split_special_tokens: bool = False,
    ) -> Encoding:
        """Encode one text or several; arguments as :meth:`encode`.

        Args:
            padding: True or "longest" to pad to the longest text, "max_length" to pad to ``max_length``.

        Returns:
            ``input_ids`` and ``attention_mask``: a list for one text, a list of lists for several. With
            ``return_tensors`` two dimensions in both cases.

        Raises:
            ValueError: Padding needs ``pad_token``, which is None, or the texts differ in length.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if truncation is None:
            truncation = max_length is not None and padding is False
        rows = [
            self.encode(
                one,
                add_special_tokens,
                split_special_tokens=split_special_tokens,
                truncation=truncation,
                max_length=max_length,
            )
            for one in texts
        ]
        masks = [[1] * len(row) for row in rows]
        if padding:
            self._pad(rows, masks, max_length if padding == "max_length" else max(map(len, rows), default=0))
        made: Dict[str, Any] = {"input_ids": rows, "attention_mask": masks}
        if return_tensors is not None:
            return Encoding({name: _tensor(value, return_tensors) for name, value in made.items()})
        return Encoding({name: value[0] for name, value in made.items()} if isinstance(text, str) else made)

    def _pad(self, rows: List[List[int]], masks: List[List[int]], length: Optional[int]) -> None:
        """Pad rows and masks in place to a length; None: ``model_max_length``."""
        filler = self.pad_token_id
        if filler is None:
            raise ValueError("padding needs a pad_token: set tokenizer.pad_token = tokenizer.eos_token")
        wanted = self.model_max_length if length is None else length
        if wanted >= _NO_LIMIT:
            raise ValueError('padding="max_length" needs max_length')
        for row, mask in zip(rows, masks):
            missing = wanted - len(row)
            end = 0 if self.padding_side == "left" else len(row)
            row[end:end] = [filler] * missing
            mask[end:end] = [0] * missing

    def decode(
        self, ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: Optional[bool] = None
    ) -> str:
        """Decode token ids to text.

        Args:
            ids: One token id or several, also as an array or a tensor.
            skip_special_tokens: Omit special tokens from the text.
            clean_up_tokenization_spaces: True, which would remove spaces before punctuation, is not supported.

        Returns:
            The text. Bytes that are not valid UTF-8 become U+FFFD.

        Raises:
            ValueError: An id is outside the vocabulary.
        """
        if clean_up_tokenization_spaces:
            raise ValueError("clean_up_tokenization_spaces=True is not supported: it changes the text")
        if hasattr(ids, "tolist"):
            ids = ids.tolist()
        tokens = [ids] if isinstance(ids, int) else [int(token) for token in ids]
        return self.decode_tokens(tokens, skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> List[str]:
        """Decode several sequences of token ids."""
        return [self.decode(ids, skip_special_tokens=skip_special_tokens) for ids in sequences]

    def tokenize(self, text: str, *, add_special_tokens: bool = False) -> List[str]:
        """Return the tokens of a text as they are in the vocabulary."""
        tokens: List[str] = self.convert_ids_to_tokens(self.encode(text, add_special_tokens))
        return tokens

    # The vocabulary

    def __len__(self) -> int:
        """Return the number of tokens, added tokens included."""
        return len(self.get_vocab())

    def convert_tokens_to_ids(
        self, tokens: Union[str, Sequence[str]], *, unknown: Union[None, str, int] = "unk_token"
    ) -> Any:
        """Return the id of a token, or a list for a list.

        Args:
            unknown: The id for a token that the vocabulary does not contain; "unk_token": that of ``unk_token``.
        """
        if isinstance(tokens, str):
            return self.convert_tokens_to_ids([tokens], unknown=unknown)[0]
        other = self.unk_token_id if unknown == "unk_token" else unknown
        found = [self.token_to_id(token) for token in tokens]
        return [other if number is None else number for number in found]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token with an id, or a list for several ids; None for an id outside the vocabulary."""
        if isinstance(ids, int):
            return self.id_to_token(ids)
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self.id_to_token(int(number)) for number in ids if int(number) not in special]

    @property
    def special_tokens_map(self) -> Dict[str, Any]:
        """Texts of the special tokens by name."""
        additional = self.additional_special_tokens
        extra = {"additional_special_tokens": list(additional)} if additional else {}
        return {**self.special_tokens, **extra}

    @property
    def all_special_tokens(self) -> List[str]:
        """The texts of all special tokens, each once."""
        return list(dict.fromkeys((*self.special_tokens.values(), *self.additional_special_tokens)))

    @property
    def all_special_ids(self) -> List[int]:
        """The ids of all special tokens."""
        ids: List[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        return ids


def _tensor(rows: List[List[int]], kind: str) -> Any:
    makers: Dict[str, Tuple[str, str]] = {"pt": ("torch", "tensor"), "np": ("numpy", "array")}
    if kind not in makers:
        raise ValueError(f"return_tensors must be 'pt' or 'np', not {kind!r}")
    if len(set(map(len, rows))) > 1:
        raise ValueError("the texts differ in length: pass padding=True")
    module, name = makers[kind]
    return getattr(importlib.import_module(module), name)(rows)
