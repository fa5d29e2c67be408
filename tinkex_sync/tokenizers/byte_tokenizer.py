"""The tokenizer of the embedded server's models: one token per UTF-8 byte."""

from __future__ import annotations

from typing import ClassVar, Dict, List, Optional

from .interface import TransformersInterface


def _token_of_byte(byte: int) -> str:
    character = chr(byte)
    return character if " " <= character <= "~" else f"<0x{byte:02X}>"


class ByteTokenizer(TransformersInterface):
    """Encode text as UTF-8 bytes.

    Tokens 0 to 255 are the bytes. The special tokens follow. The class needs no files and no network.
    """

    bos_token: ClassVar[str] = "<|bos|>"
    eos_token: ClassVar[str] = "<|eos|>"
    bos_token_id: ClassVar[int] = 256
    eos_token_id: ClassVar[int] = 257
    vocab_size: ClassVar[int] = 258

    _TOKENS: ClassVar[List[str]] = [*map(_token_of_byte, range(256)), "<|bos|>", "<|eos|>"]
    _IDS: ClassVar[Dict[str, int]] = {token: number for number, token in enumerate(_TOKENS)}

    def __init__(self) -> None:
        super().__init__("tinkex/tiny", {"bos_token": self.bos_token, "eos_token": self.eos_token})

    def encode_text(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool, limit: Optional[int]
    ) -> List[int]:
        """Encode text as its UTF-8 bytes, one token from 0 to 255 per byte. Special tokens have no text.

        Raises:
            ValueError: ``text`` contains a lone surrogate, which has no UTF-8 form.
        """
        try:
            return list(text.encode("utf-8"))[:limit]
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text contains the lone surrogate {text[error.start]!r} at index {error.start}, which has no"
                " UTF-8 form: replace it first"
            ) from error

    def decode_tokens(self, tokens: List[int], skip_special_tokens: bool) -> str:
        """Decode tokens to text. Special tokens have no text and are always omitted.

        Raises:
            ValueError: A token is outside the vocabulary.
        """
        data = bytearray()
        for index, token in enumerate(tokens):
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"token {token!r} at index {index} is outside the vocabulary: use tokens from 0 to"
                    f" {self.vocab_size - 1}"
                )
            if token < 256:
                data.append(token)
        return data.decode("utf-8", errors="replace")

    def token_to_id(self, token: str) -> Optional[int]:
        """Return the id of an ASCII character, of a byte such as ``<0xFF>``, or of a special token."""
        return self._IDS.get(token)

    def id_to_token(self, number: int) -> Optional[str]:
        """Return the token with an id; None outside the vocabulary."""
        return self._TOKENS[number] if 0 <= number < self.vocab_size else None

    def get_vocab(self) -> Dict[str, int]:
        """Return the ids of all tokens."""
        return dict(self._IDS)
