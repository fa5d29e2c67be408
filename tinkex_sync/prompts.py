"""Prompts of text and images: chunks from bytes, files or PIL images, and a builder that joins them in order."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, List, Literal, Optional, Sequence, Union
from urllib.parse import urlsplit

from .types import EncodedTextChunk, ImageAssetPointerChunk, ImageChunk, ModelInput, ModelInputChunk

__all__ = ["PromptBuilder", "image_chunk", "image_format", "image_pointer"]

ImageFormat = Literal["png", "jpeg"]

#: The modes of PIL that PNG can store. Of other modes, those with transparency have the listed replacement, and the
#: rest become RGB.
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_REPLACEMENT_MODES = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
#: The first bytes of the two formats that servers accept, and of other formats, which the error message names.
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_OTHER_FORMATS = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF", b"<svg": "SVG"}


def image_format(data: bytes) -> ImageFormat:
    """Detect the format of an image from its first bytes. File names and declared types are not used.

    Args:
        data: The bytes of an image file.

    Returns:
        "png" or "jpeg".

    Raises:
        ValueError: The image has another format. The message names the format if it is known.
    """
    if data.startswith(_PNG):
        return "png"
    if data.startswith(_JPEG):
        return "jpeg"
    detected = next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        detected = "WebP"
    found = f"{detected} data" if detected else f"data that begins with {data[:8]!r}"
    raise ValueError(f"an image must be PNG or JPEG, got {found}: convert it first")


def image_chunk(image: Any, expected_tokens: Optional[int] = None) -> ImageChunk:
    """Make a chunk that contains an image.

    Args:
        image: The bytes of a PNG or JPEG file, the path of such a file, or a PIL image. Bytes and files are sent
            unchanged. A PIL image is sent as PNG. A PIL image that was opened from a JPEG file and not transformed
            is sent as JPEG with the same quantization tables.
        expected_tokens: The number of tokens that the image will take, if known. It gives the prompt a length.

    Returns:
        The chunk.

    Raises:
        ValueError: The bytes are neither PNG nor JPEG, PIL cannot convert the image, or ``expected_tokens`` is
            below 1.
        TypeError: ``image`` is neither bytes, a path nor a PIL image.
        OSError: The file cannot be read.
    """
    _check_expected_tokens(expected_tokens)
    if isinstance(image, (str, os.PathLike)):
        data = Path(image).read_bytes()
        try:
            return ImageChunk(data=data, format=image_format(data), expected_tokens=expected_tokens)
        except ValueError as error:
            raise ValueError(f"{os.fspath(image)}: {error}") from None
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif callable(getattr(image, "save", None)) and hasattr(image, "mode"):
        data = _encode_pil_image(image)
    else:
        raise TypeError(f"an image must be bytes, a path or a PIL image, not {type(image).__name__}")
    return ImageChunk(data=data, format=image_format(data), expected_tokens=expected_tokens)


def _encode_pil_image(image: Any) -> bytes:
    buffer = io.BytesIO()
    if getattr(image, "format", None) == "JPEG" and image.mode in ("L", "RGB"):
        image.save(buffer, format="JPEG", quality="keep")
        return buffer.getvalue()
    if image.mode not in _PNG_MODES:
        image = image.convert(_REPLACEMENT_MODES.get(image.mode, "RGB"))
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _check_expected_tokens(expected_tokens: Optional[int]) -> None:
    if expected_tokens is not None and expected_tokens < 1:
        raise ValueError(f"expected_tokens must be >= 1, got {expected_tokens!r}")


def image_pointer(
    location: str, format: Optional[ImageFormat] = None, expected_tokens: Optional[int] = None
) -> ImageAssetPointerChunk:
    """Make a chunk that refers to an image which the server fetches itself.

    Args:
        location: The URL of the image, or its path on the server.
        format: "png" or "jpeg". Default: the format that the suffix of ``location`` implies.
        expected_tokens: The number of tokens that the image will take, if known.

    Returns:
        The chunk.

    Raises:
        ValueError: ``location`` is empty, its suffix implies no format, or ``expected_tokens`` is below 1.
    """
    _check_expected_tokens(expected_tokens)
    if not isinstance(location, str) or not location:
        raise ValueError(f"location must be a URL or path, not {location!r}")
    if format is None:
        suffix = urlsplit(location).path.rpartition(".")[2].lower()
        implied = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg"}.get(suffix)
        if implied is None:
            raise ValueError(f"location {location!r} implies no image format: pass format='png' or 'jpeg'")
        return ImageAssetPointerChunk(
            format=implied,  # type: ignore[arg-type]
            location=location,
            expected_tokens=expected_tokens,
        )
    return ImageAssetPointerChunk(format=format, location=location, expected_tokens=expected_tokens)


class PromptBuilder:
    """Build a prompt chunk by chunk. Methods return the builder, so calls can be chained.

    Not thread-safe: use one builder per thread.

    Args:
        tokenizer: Encodes text that is passed as a string. The result of ``load_tokenizer``, or any object with
            ``encode(text, add_special_tokens=False)``. No special tokens are added around a text, because it may
            follow another chunk. Special tokens that are written out in a text are encoded as such.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer
        self._chunks: List[ModelInputChunk] = []

    def text(self, text: Union[str, Sequence[int]]) -> PromptBuilder:
        """Append text. Text that follows text is joined into one chunk.

        Args:
            text: Token ids, or a string if the builder has a tokenizer.

        Returns:
            The builder.

        Raises:
            TypeError: ``text`` is a string and the builder has no tokenizer.
        """
        if isinstance(text, str):
            if self._tokenizer is None:
                raise TypeError("text needs a tokenizer: use PromptBuilder(tokenizer), or pass token ids")
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
            # The library tokenizers returns an object that contains the ids.
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
        """Append a chunk that contains an image. See :func:`image_chunk`.

        Returns:
            The builder.
        """
        self._chunks.append(image_chunk(image, expected_tokens))
        return self

    def pointer(
        self, location: str, format: Optional[ImageFormat] = None, expected_tokens: Optional[int] = None
    ) -> PromptBuilder:
        """Append a chunk that refers to an image which the server fetches. See :func:`image_pointer`.

        Returns:
            The builder.
        """
        self._chunks.append(image_pointer(location, format, expected_tokens))
        return self

    def build(self) -> ModelInput:
        """Return the prompt built so far. The builder can be used further."""
        return ModelInput(chunks=list(self._chunks))
