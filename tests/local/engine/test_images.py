"""Images that are not what they claim are refused."""

import base64
import io
import struct
import zlib

import pytest
from engine_data import randomized_model
from image_files import JPEG, png, png_chunk

from tinkex_sync.local.engine import EngineError, images

PNG = png()
SIGNATURE = PNG[:8]


def changed(data, position):
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def png_with(header, *parts):
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header)), *parts, (b"IEND", b"")]
    return SIGNATURE + b"".join(png_chunk(*part) for part in chunks)


@pytest.mark.parametrize("claimed", ["png", None])
def test_complete_png_is_accepted(claimed):
    images.check_image(PNG, claimed, "here")


@pytest.mark.parametrize("claimed", ["jpeg", None])
def test_complete_jpeg_is_accepted(claimed):
    images.check_image(JPEG, claimed, "here")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (17, 9)])
def test_files_of_pillow_are_accepted(mode, size):
    image_module = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image_module.new(mode, size).save(file, "png")
    images.check_image(file.getvalue(), "png", "here")
    if mode in ("L", "RGB"):
        for progressive in (False, True):
            file = io.BytesIO()
            image_module.new(mode, size).save(file, "jpeg", progressive=progressive)
            images.check_image(file.getvalue(), "jpeg", "here")


def test_interlaced_png_is_accepted():
    # Passes 1, 6 and 7 of two by two pixels have a row each, of 1, 1 and 2 pixels.
    pixels = zlib.compress(b"\0a\0b\0cd")
    images.check_image(png_with((2, 2, 8, 0, 0, 0, 1), (b"IDAT", pixels)), "png", "here")


@pytest.mark.parametrize(
    ("data", "claimed", "words"),
    [
        (JPEG, "png", "a file of format jpeg, format is 'png'.*correct the format"),
        (PNG, "jpeg", "a file of format png, format is 'jpeg'"),
        (b"GIF89a", "png", "neither a PNG nor a JPEG file"),
        (b"\x89PNG not really", "png", "neither"),
        (b"<html>", None, "neither"),
        (PNG, "gif", "format is 'gif': use png or jpeg"),
        (PNG, 7, "format is 7"),
        (PNG[:-1], "png", "truncated"),
        (PNG[:20], "png", "truncated"),
        (SIGNATURE, "png", "truncated"),
        (changed(PNG, 17), "png", "checksum of chunk b'IHDR'"),
        (changed(PNG, 45), "png", "checksum of chunk b'IDAT'"),
        (png(pixels=b"\0abc"), "png", "4 bytes of pixels instead of 8"),
        (png(pixels=b"\0" * 10_000_000), "png", "of pixels instead of 8"),
        (png_with((0, 2, 8, 0, 0, 0, 0)), "png", "size is 0 x 2"),
        (png_with((2**31 - 1, 2**31 - 1, 8, 0, 0, 0, 0)), "png", "more than"),
        (png_with((1, 1, 3, 0, 0, 0, 0)), "png", "3 bits"),
        (png_with((1, 1, 8, 3, 0, 0, 0), (b"IDAT", zlib.compress(b"\0a"))), "png", "palette"),
        (png_with((1, 1, 8, 0, 0, 0, 0), (b"IDAT", b"not zlib")), "png", "not a complete png"),
        (JPEG[:-2], "jpeg", "truncated"),
        (JPEG[:40], "jpeg", "truncated"),
        (b"\xff\xd8\xff\xd9", "jpeg", "no pixels"),
        (b"\xff\xd8", "jpeg", "truncated"),
    ],
)
def test_error_states_why_an_image_is_refused(data, claimed, words):
    with pytest.raises(EngineError, match=words):
        images.check_image(data, claimed, "here")


@pytest.mark.parametrize("complete", [PNG, JPEG])
def test_every_truncated_image_is_refused(complete):
    for length in range(len(complete)):
        with pytest.raises(EngineError):
            images.check_image(complete[:length], None, "here")


def test_prompt_with_a_damaged_image_is_refused():
    chunk = {"data": base64.b64encode(PNG[:-5]).decode(), "format": "png", "expected_tokens": 2}
    with pytest.raises(EngineError, match="prompt, chunk 0: the data is not a complete png"):
        randomized_model().snapshot().sample([chunk], 1, {"max_tokens": 1})
