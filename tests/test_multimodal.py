"""Prompts of text and images."""

import base64

import pytest

from tinkex_sync import multimodal, types

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"


@pytest.mark.parametrize("data", [PNG, bytearray(PNG), memoryview(PNG)])
def test_bytes(data):
    chunk = multimodal.image_chunk(data, expected_tokens=7)
    assert (chunk.data, chunk.format, chunk.length) == (PNG, "png", 7)
    assert chunk.to_wire() == {
        "data": base64.b64encode(PNG).decode(),
        "format": "png",
        "expected_tokens": 7,
    }


def test_the_name_of_a_file_is_not_trusted(tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(JPEG)
    assert multimodal.image_chunk(file).format == "jpeg"
    assert multimodal.image_chunk(str(file)).format == "jpeg"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GIF89a", "GIF"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"", "begins with"),
        (b"plain text", "begins with"),
    ],
)
def test_other_formats_are_refused_by_name(data, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        multimodal.image_chunk(data)
    file = tmp_path / "broken.jpg"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="broken.jpg"):
        multimodal.image_chunk(file)


def test_what_is_no_image():
    with pytest.raises(TypeError, match="int"):
        multimodal.image_chunk(5)
    with pytest.raises(FileNotFoundError):
        multimodal.image_chunk("no-such-file.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "F"])
def test_a_pil_image(mode):
    image = pytest.importorskip("PIL.Image").new(mode, (4, 4))
    assert multimodal.image_chunk(image).format == "png"


def test_a_pil_image_read_from_a_jpeg_stays_one(tmp_path):
    images = pytest.importorskip("PIL.Image")
    images.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    with images.open(tmp_path / "a.jpg") as image:
        assert multimodal.image_chunk(image).format == "jpeg"


def test_pointers():
    chunk = multimodal.image_pointer("https://example.com/a.JPG?size=1", expected_tokens=3)
    assert chunk.to_wire() == {
        "format": "jpeg",
        "location": "https://example.com/a.JPG?size=1",
        "expected_tokens": 3,
    }
    assert multimodal.image_pointer("asset-7", format="png").format == "png"
    with pytest.raises(ValueError, match="asset-7"):
        multimodal.image_pointer("asset-7")
    with pytest.raises(ValueError, match="location"):
        multimodal.image_pointer("")


class Words:
    def encode(self, text):
        return [len(word) for word in text.split()]


def test_a_prompt_is_built_in_order_and_sampled_from(service):
    builder = multimodal.PromptBuilder(Words())
    prompt = (
        builder.text("what is").text([9]).image(PNG, 4).pointer("b.png", expected_tokens=2).text("?").build()
    )
    assert [type(chunk) for chunk in prompt.chunks] == [
        types.EncodedTextChunk,
        types.ImageChunk,
        types.ImageAssetPointerChunk,
        types.EncodedTextChunk,
    ]
    assert list(prompt.chunks[0].tokens) == [4, 2, 9]
    assert prompt.length == 10
    assert builder.text([1]).build() != prompt
    reply = service.create_sampling_client(base_model="tinkex/tiny").sample(
        prompt, 1, types.SamplingParams(max_tokens=2, seed=1)
    )
    assert len(reply.sequences[0].tokens) == 2


def test_text_without_a_tokenizer():
    with pytest.raises(TypeError, match="tokenizer"):
        multimodal.PromptBuilder().text("hello")
    assert multimodal.PromptBuilder().text([]).build() == types.ModelInput.empty()
