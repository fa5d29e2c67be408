"""Prompts of text and images."""

import base64
import io

import pytest

from tinkex_sync import PromptBuilder, prompts, types
from tinkex_sync.tokenizers import byte_tokenizer
from tinkex_sync.tokenizers import loading as tokenizers

#: An image of two by two red pixels, and one of a single grey pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGM8ISfHwMDAxMDAwMDAAAANBAEIfXHKZgAAAABJRU5ErkJggg=="
)
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////////////////////////////////////////////"
    "////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)


@pytest.mark.parametrize("data", [PNG, bytearray(PNG), memoryview(PNG)])
def test_image_bytes_are_sent_unchanged(data):
    chunk = prompts.image_chunk(data, expected_tokens=7)
    assert (chunk.data, chunk.format, chunk.length) == (PNG, "png", 7)
    assert chunk.to_wire() == {"data": base64.b64encode(PNG).decode(), "format": "png", "expected_tokens": 7}


def test_format_is_detected_from_the_bytes_not_from_the_file_name(tmp_path):
    file = tmp_path / "picture.png"
    file.write_bytes(JPEG)
    assert prompts.image_chunk(file).format == "jpeg"
    assert prompts.image_chunk(str(file)).format == "jpeg"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"GIF89a", "GIF"), (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"), (b"", "begins with"), (b"plain text", "begins with")],
)
def test_error_names_an_unsupported_format(data, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prompts.image_chunk(data)
    file = tmp_path / "broken.jpg"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="broken.jpg"):
        prompts.image_chunk(file)


def test_objects_that_are_no_images_are_rejected():
    with pytest.raises(TypeError, match="int"):
        prompts.image_chunk(5)
    with pytest.raises(FileNotFoundError):
        prompts.image_chunk("no-such-file.png")


NO_PIL = "pillow (extra `images`) is not in this environment"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pil_image_is_sent_as_png_with_equal_pixels(mode):
    images = pytest.importorskip("PIL.Image", reason=NO_PIL)
    image = images.new(mode, (4, 3), 1)
    image.putpixel((2, 1), 0 if mode in ("1", "L", "P", "I;16") else tuple(range(len(mode))))
    chunk = prompts.image_chunk(image)
    assert chunk.format == "png"
    with images.open(io.BytesIO(chunk.data)) as read:
        assert read.size == (4, 3)
        assert read.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize(
    ("mode", "converted"),
    [("CMYK", "RGB"), ("YCbCr", "RGB"), ("F", "RGB"), ("La", "LA"), ("RGBa", "RGBA"), ("PA", "RGBA")],
)
def test_pil_image_of_a_mode_without_png_form_is_converted(mode, converted):
    images = pytest.importorskip("PIL.Image", reason=NO_PIL)
    chunk = prompts.image_chunk(images.new(mode, (4, 4)))
    with images.open(io.BytesIO(chunk.data)) as read:
        assert (read.format, read.mode) == ("PNG", converted)


def test_pil_image_opened_from_a_jpeg_is_sent_as_jpeg(tmp_path):
    images = pytest.importorskip("PIL.Image", reason=NO_PIL)
    with images.open(io.BytesIO(JPEG)) as image:
        chunk = prompts.image_chunk(image)
        assert prompts.image_chunk(image.rotate(90)).format == "png"
    with images.open(io.BytesIO(chunk.data)) as again, images.open(io.BytesIO(JPEG)) as image:
        assert again.format == "JPEG" and again.quantization == image.quantization
        assert again.tobytes() == image.tobytes()


def test_image_pointer_takes_its_format_from_the_location():
    chunk = prompts.image_pointer("https://example.com/a.JPG?size=1", expected_tokens=3)
    assert chunk.to_wire() == {"format": "jpeg", "location": "https://example.com/a.JPG?size=1", "expected_tokens": 3}
    assert prompts.image_pointer("asset-7", format="png").format == "png"
    with pytest.raises(ValueError, match="asset-7"):
        prompts.image_pointer("asset-7")
    with pytest.raises(ValueError, match="location"):
        prompts.image_pointer("")
    with pytest.raises(ValueError, match="'gif'"):
        prompts.image_pointer("a.gif", format="gif")


@pytest.mark.parametrize("number", [0, -3])
def test_expected_tokens_below_one_is_rejected(number):
    with pytest.raises(ValueError, match=f"expected_tokens must be >= 1, got {number}"):
        prompts.image_chunk(PNG, expected_tokens=number)
    with pytest.raises(ValueError, match=f"expected_tokens must be >= 1, got {number}"):
        prompts.image_pointer("a.png", expected_tokens=number)


class WordLengthTokenizer:
    def encode(self, text, add_special_tokens=True):
        return [0] * add_special_tokens + [len(word) for word in text.split()]


def test_chunks_keep_their_order_and_the_prompt_can_be_sampled(service):
    builder = prompts.PromptBuilder(WordLengthTokenizer())
    prompt = builder.text("what is").text([9]).image(PNG, 4).pointer("b.png", expected_tokens=2).text("?").build()
    assert [type(chunk) for chunk in prompt.chunks] == [
        types.EncodedTextChunk,
        types.ImageChunk,
        types.ImageAssetPointerChunk,
        types.EncodedTextChunk,
    ]
    assert list(prompt.chunks[0].tokens) == [4, 2, 9]
    assert prompt.length == 10
    assert builder.text([1]).build() != prompt
    response = service.create_sampling_client(base_model="tinkex/tiny").sample(
        prompt, 1, types.SamplingParams(max_tokens=2, seed=1)
    )
    assert len(response.sequences[0].tokens) == 2


def test_tokenizers_of_every_library_add_no_special_tokens(tmp_path):
    library = pytest.importorskip("tokenizers", reason="tokenizers is not in this environment")
    made = library.Tokenizer(library.models.WordLevel({"<s>": 0, "hi": 1}, unk_token="hi"))
    made.post_processor = library.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (made, tokenizers.load_tokenizer(str(tmp_path)), byte_tokenizer.ByteTokenizer()):
        prompt = prompts.PromptBuilder(tokenizer).image(PNG).text("hi").build()
        expected = [104, 105] if isinstance(tokenizer, byte_tokenizer.ByteTokenizer) else [1]
        assert list(prompt.chunks[1].tokens) == expected, "no begin token inside a prompt"


def test_images_can_be_trained_on(service):
    prompt = PromptBuilder().text([1, 2]).image(PNG, 3).image(JPEG, 4).text([5]).build()
    inputs = {"target_tokens": [2] + [0] * 8 + [6], "weights": [1.0] + [0.0] * 8 + [1.0]}
    client = service.create_lora_training_client("tinkex/tiny", rank=4)
    datum = types.Datum(model_input=prompt, loss_fn_inputs=inputs)
    assert client.forward_backward([datum], "cross_entropy").metrics["loss:sum"] > 0


def test_text_without_a_tokenizer_is_an_error():
    with pytest.raises(TypeError, match="tokenizer"):
        prompts.PromptBuilder().text("hello")
    assert prompts.PromptBuilder().text([]).build() == types.ModelInput.empty()
