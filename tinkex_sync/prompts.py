"""Prompts of text and images: chunks from bytes, files or PIL images, and a builder that appends them in order."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, List, Literal, Optional, Sequence, Union
from urllib.parse import urlsplit

from .types import EncodedTextChunk, ImageAssetPointerChunk, ImageChunk, ModelInput, ModelInputChunk

__all__ = ["PromptBuilder", "image_chunk", "image_format", "image_pointer"]

ImageFormat = Literal["png", "jpeg"]

#: PIL's modes that PNG has too, and those with transparency that it has not; of the rest it takes the colours.
_AS_PNG = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_WITH_ALPHA = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
#: First bytes of the two formats servers take, and of some they do not, to name them in the error.
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_OTHERS = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF", b"<svg": "SVG"}


def image_format(data: bytes) -> ImageFormat:
    """Whether it is "png" or "jpeg", from the first bytes; a file name or a declared type is not asked.

    Raises:
        ValueError: neither; the text says what it seems to be.
    """
    if data.startswith(_PNG):
        return "png"
    if data.startswith(_JPEG):
        return "jpeg"
    seems = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        seems = "WebP"
    what = f"a {seems} file" if seems else f"something that begins with {data[:8]!r}"
    raise ValueError(f"an image must be PNG or JPEG, and this is {what}: convert it first")


def image_chunk(image: Any, expected_tokens: Optional[int] = None) -> ImageChunk:
    """An image by value.

    Args:
        image: Bytes of a PNG or JPEG file (sent as they are), the path of one, or a PIL image (sent as PNG; as JPEG,
            by its own tables, if it was opened from one and not turned into another since).
        expected_tokens: How many tokens it will take, if that is known: gives the prompt a length.

    Raises:
        ValueError: the bytes are neither PNG nor JPEG; PIL cannot convert the image; ``expected_tokens`` is below 1.
        TypeError: it is no image.
        OSError: the file cannot be read.
    """
    _check_count(expected_tokens)
    if isinstance(image, (str, os.PathLike)):
        data = Path(image).read_bytes()
        try:
            return ImageChunk(data=data, format=image_format(data), expected_tokens=expected_tokens)
        except ValueError as error:
            raise ValueError(f"{os.fspath(image)}: {error}") from None
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif callable(getattr(image, "save", None)) and hasattr(image, "mode"):
        data = _encoded(image)
    else:
        raise TypeError(f"an image is bytes, a path or a PIL image, not {type(image).__name__}")
    return ImageChunk(data=data, format=image_format(data), expected_tokens=expected_tokens)


def _encoded(image: Any) -> bytes:
    buffer = io.BytesIO()
    if getattr(image, "format", None) == "JPEG" and image.mode in ("L", "RGB"):
        image.save(buffer, format="JPEG", quality="keep")
        return buffer.getvalue()
    if image.mode not in _AS_PNG:
        image = image.convert(_WITH_ALPHA.get(image.mode, "RGB"))
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _check_count(expected_tokens: Optional[int]) -> None:
    if expected_tokens is not None and expected_tokens < 1:
        raise ValueError(f"an image takes at least one token: expected_tokens is {expected_tokens!r}")


def image_pointer(
    location: str, format: Optional[ImageFormat] = None, expected_tokens: Optional[int] = None
) -> ImageAssetPointerChunk:
    """An image the server fetches itself.

    Args:
        location: Its URL or path there.
        format: "png" or "jpeg"; default: from the end of the location.

    Raises:
        ValueError: there is no location, or the format cannot be told from it; ``expected_tokens`` is below 1.
    """
    _check_count(expected_tokens)
    if not isinstance(location, str) or not location:
        raise ValueError(f"location must be a URL or path, not {location!r}")
    if format is None:
        ending = urlsplit(location).path.rpartition(".")[2].lower()
        found = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg"}.get(ending)
        if found is None:
            raise ValueError(f"the format cannot be told from {location!r}: give format='png' or 'jpeg'")
        return ImageAssetPointerChunk(
            format=found,  # type: ignore[arg-type]
            location=location,
            expected_tokens=expected_tokens,
        )
    return ImageAssetPointerChunk(format=format, location=location, expected_tokens=expected_tokens)


class PromptBuilder:
    """Puts a prompt together; methods return the builder, so that they can be chained.

    Args:
        tokenizer: For text that is given as text: what ``load_tokenizer`` gives, or anything else with
            ``encode(text, add_special_tokens=False)``. Special tokens are those written out in a text; none are put
            around it, as it may come after others.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer
        self._chunks: List[ModelInputChunk] = []

    def text(self, text: Union[str, Sequence[int]]) -> PromptBuilder:
        """Append token ids, or text if there is a tokenizer; text after text becomes one chunk."""
        if isinstance(text, str):
            if self._tokenizer is None:
                raise TypeError("text needs a tokenizer: PromptBuilder(tokenizer), or give token ids")
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
            # The tokenizers library returns an object that holds the ids.
            tokens = list(getattr(encoded, "ids", encoded))
        else:
            tokens = list(text)
        if not tokens:
            return self
        last = self._chunks[-1] if self._chunks else None
        if isinstance(last, EncodedTextChunk):
            self._chunks[-1] = EncodedTextChunk(tokens=[*last.tokens, *tokens])
        else:
            self._chunks.append(EncodedTextChunk(tokens=tokens))
        return self

    def image(self, image: Any, expected_tokens: Optional[int] = None) -> PromptBuilder:
        """Append an image by value; see :func:`image_chunk`."""
        self._chunks.append(image_chunk(image, expected_tokens))
        return self

    def pointer(
        self, location: str, format: Optional[ImageFormat] = None, expected_tokens: Optional[int] = None
    ) -> PromptBuilder:
        """Append an image the server fetches; see :func:`image_pointer`."""
        self._chunks.append(image_pointer(location, format, expected_tokens))
        return self

    def build(self) -> ModelInput:
        """The prompt so far; the builder can go on."""
        return ModelInput(chunks=list(self._chunks))
