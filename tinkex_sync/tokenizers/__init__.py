"""Tokenizers by the server's identifier, by a Hugging Face repository or by a local path."""

from .loading import choose, load_tokenizer

__all__ = ["choose", "load_tokenizer"]
