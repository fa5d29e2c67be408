"""The tokenizer of the embedded server's models: one token per UTF-8 byte."""

from __future__ import annotations

from typing import ClassVar, Iterable, List


class ByteTokenizer:
    """Text as UTF-8 bytes: tokens 0 to 255 are the bytes, then come the special tokens.

    It needs no files and no network. It has the methods a training script uses of a Hugging Face tokenizer,
    and no state, so threads may share it.
    """

    bos_token_id: ClassVar[int] = 256
    eos_token_id: ClassVar[int] = 257
    vocab_size: ClassVar[int] = 258

    def encode(self, text: str, add_special_tokens: bool = True) -> List[int]:
        """The UTF-8 bytes of ``text``; no special token is added, whatever ``add_special_tokens`` says.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: it holds a lone surrogate, which UTF-8 cannot express.
        """
        if not isinstance(text, str):
            raise TypeError(f"text to encode must be a str, not {type(text).__name__}: {text!r}")
        try:
            return list(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text holds the lone surrogate {text[error.start]!r} at index {error.start}, which has no"
                " UTF-8 form: replace it first"
            ) from error

    def decode(self, tokens: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of ``tokens``. Special tokens have none and are always left out.

        Bytes that are no UTF-8 become U+FFFD.

        Raises:
            ValueError: a token is outside the vocabulary.
        """
        data = bytearray()
        for index, token in enumerate(tokens):
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"token {token!r} at index {index} is no token of this tokenizer: its tokens are 0 to"
                    f" {self.vocab_size - 1}"
                )
            if token < 256:
                data.append(token)
        return data.decode("utf-8", errors="replace")
