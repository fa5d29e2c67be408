"""Load the tokenizer of a model, by the server's identifier, a Hugging Face repository or a local path.

Importing this package imports no tokenizer library. :func:`load_tokenizer` imports the library that it needs.
"""

from .byte_tokenizer import ByteTokenizer
from .loading import EMBEDDED_TOKENIZER_ID, TokenizerChoice, TokenizerError, choose_tokenizer, load_tokenizer

__all__ = [
    "EMBEDDED_TOKENIZER_ID", "ByteTokenizer", "TokenizerChoice", "TokenizerError", "choose_tokenizer",
    "load_tokenizer",
]  # fmt: skip
