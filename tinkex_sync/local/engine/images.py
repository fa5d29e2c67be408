"""Checks that the bytes of an image are a complete PNG or JPEG file.

The pixels do not matter to the model, so they are decompressed to check the file and are not kept. PNG files are
checked completely (W3C Portable Network Graphics specification, second edition). Of JPEG files the segments are checked
(ITU-T T.81, annex B), and the pixels too if pillow is installed.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .errors import EngineError

__all__ = ["FORMATS", "check_image"]

FORMATS = ("png", "jpeg")
#: The most pixels of an image.
MAX_PIXELS = 64 * 1024 * 1024

_PNG_SIGNATURE, _JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
#: The number of channels and the allowed bit depths, by the color type of a PNG file.
_PNG_COLORS: Dict[int, Tuple[int, Tuple[int, ...]]] = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
#: First column, first row, and the distances between columns and rows of each pass of an interlaced PNG file.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Bytes that are decompressed at a time.
_PART_SIZE = 1024 * 1024


def check_image(data: bytes, claimed: Any, where: str) -> None:
    """Check that bytes are a complete image of the claimed format.

    Args:
        data: The bytes of the file.
        claimed: The ``format`` of the chunk. None: PNG or JPEG.
        where: The place of the image in the request, for messages.

    Raises:
        EngineError: They are not.
    """
    if claimed is not None and claimed not in FORMATS:
        raise EngineError(f"{where}: format is {claimed!r:.40}: use {' or '.join(FORMATS)}")
    found = _format_of(data)
    if found is None or (claimed is not None and found != claimed):
        kind = "neither a PNG nor a JPEG file" if found is None else f"a file of format {found}"
        remedy = "send a file of that format" if found is None else "correct the format"
        raise EngineError(
            f"{where}: the data is {kind}, format is {claimed!r} (it starts with {data[:12]!r}): {remedy}"
        )
    try:
        _check_png(data) if found == "png" else _check_jpeg(data)
    except (ValueError, struct.error, zlib.error) as error:
        raise EngineError(
            f"{where}: the data is not a complete {found} image ({error}): send the bytes of the file"
        ) from None


def _format_of(data: bytes) -> Optional[str]:
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    return "jpeg" if data.startswith(_JPEG_SIGNATURE) else None


def _check_size(width: int, height: int) -> None:
    if not (width and height):
        raise ValueError(f"its size is {width} x {height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"its size is {width} x {height}, more than {MAX_PIXELS} pixels")


# PNG


def _png_chunks(data: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Yield type and contents of the chunks up to the last one.

    Raises:
        ValueError: A chunk is damaged, or the last one is missing.
    """
    position, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        header = data[position : position + 8]
        if len(header) < 8:
            raise ValueError("it is truncated")
        length, kind = struct.unpack(">I4s", header)
        end = position + 8 + length
        if len(data) < end + 4:
            raise ValueError("it is truncated")
        if zlib.crc32(data[position + 4 : end]) != struct.unpack(">I", data[end : end + 4])[0]:
            raise ValueError(f"the checksum of chunk {kind!r} is wrong")
        yield kind, data[position + 8 : end]
        position = end + 4


def _check_png(data: bytes) -> None:
    chunks = list(_png_chunks(data))
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise ValueError("the first chunk is not a header")
    width, height, depth, color, compression, method, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    _check_size(width, height)
    channels, depths = _PNG_COLORS.get(color, (0, ()))
    if depth not in depths or compression or method or interlace > 1:
        raise ValueError(f"the header contains color type {color} with {depth} bits, which does not exist")
    if color == 3 and not any(kind == b"PLTE" for kind, _ in chunks):
        raise ValueError("the palette is missing")
    passes = _ADAM7 if interlace else ((0, 0, 1, 1),)
    expected = 0
    for column, row, columns, rows in passes:
        pixels, lines = -(-(width - column) // columns), -(-(height - row) // rows)
        if pixels > 0 and lines > 0:
            expected += lines * (1 + (pixels * depth * channels + 7) // 8)
    found = _decompressed_size([content for kind, content in chunks if kind == b"IDAT"], expected)
    if found != expected:
        raise ValueError(f"it has {found} bytes of pixels instead of {expected}")


def _decompressed_size(parts: List[bytes], limit: int) -> int:
    """Return the number of bytes that ``parts`` decompress to. Stop above ``limit``."""
    decompressor, size = zlib.decompressobj(), 0
    for part in parts:
        while part and size <= limit and not decompressor.eof:
            size += len(decompressor.decompress(part, _PART_SIZE))
            part = decompressor.unconsumed_tail
    return size + len(decompressor.flush()) if size <= limit else size


# JPEG


def _check_jpeg(data: bytes) -> None:
    """Check the segments up to the end of the image, and the pixels if pillow is installed."""
    position, has_frame, has_scan = 2, False, False
    while True:
        position = data.find(b"\xff", position)
        marker = data[position + 1] if 0 <= position < len(data) - 1 else None
        if marker is None:
            raise ValueError("it is truncated")
        position += 1 if marker == 0xFF else 2
        if marker == 0xD9:
            break
        # Fill bytes, stuffed bytes of a scan, and markers without contents.
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack(">H", data[position : position + 2])
        if length < 2 or position + length > len(data):
            raise ValueError("it is truncated")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[position + 3 : position + 7])
            _check_size(width, height)
            has_frame = True
        has_scan = has_scan or marker == 0xDA
        position += length
    if not (has_frame and has_scan):
        raise ValueError("it has no pixels")
    _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> None:
    try:
        from PIL import Image
    except ImportError:
        return
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # The library raises errors of many kinds, also SyntaxError.
        raise ValueError(str(error)) from None
