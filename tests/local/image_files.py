"""Small image files for the tests of the embedded server."""

import base64
import random
import struct
import zlib

#: A single grey pixel.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////////////////////////////////////////////"
    "////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)


def png_chunk(kind, content):
    """Return a chunk of a PNG file with its length and its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(seed=0, width=3, height=2, pixels=None):
    """Return a PNG file of random grey pixels, or of ``pixels``, which include the filter type of each row."""
    stream = random.Random(seed)
    rows = b"".join(bytes([0, *(stream.randrange(256) for _ in range(width))]) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows if pixels is None else pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)
