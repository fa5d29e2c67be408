"""The tokenizer of the embedded server's models: one token per UTF-8 byte."""

from __future__ import annotations

from typing import ClassVar, Iterable, List


class ByteTokenizer:
    """Encode text as UTF-8 bytes.

    Tokens 0 to 255 are the bytes. The special tokens follow. The class needs no files and no network. It has the
    methods that training scripts use of a Hugging Face tokenizer. It has no state, so threads may share an instance.
    """

    bos_token_id: ClassVar[int] = 256
    eos_token_id: ClassVar[int] = 257
    vocab_size: ClassVar[int] = 258

    def encode(self, text: str, add_special_tokens: bool = True) -> List[int]:
        """Encode text as its UTF-8 bytes.

        Args:
            text: The text to encode.
            add_special_tokens: Accepted for compatibility and ignored. This tokenizer never adds special tokens.

        Returns:
            One token, from 0 to 255, per byte.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: ``text`` contains a lone surrogate, which has no UTF-8 form.
        """
        if not isinstance(text, str):
            raise TypeError(f"text to encode must be a str, not {type(text).__name__}: {text!r}")
        try:
            return list(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text contains the lone surrogate {text[error.start]!r} at index {error.start}, which has no"
                " UTF-8 form: replace it first"
            ) from error

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Decode tokens to text.

        Args:
            tokens: Token ids.
            skip_special_tokens: Accepted for compatibility and ignored. Special tokens have no text and are always
                omitted.

        Returns:
            The text. Bytes that are not valid UTF-8 become U+FFFD.

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
