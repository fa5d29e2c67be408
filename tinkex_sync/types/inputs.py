"""What goes into a model: chunks of text and images, and the datums of a training batch."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Sequence, Union

from .scalars import FieldError, ints, shown
from .tensors import TensorData, is_array, is_tensor
from .wire import OMITTED, UNSENT, Wire, build, coded

__all__ = [
    "Datum",
    "EncodedTextChunk",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "LossFnInputs",
    "ModelInput",
    "ModelInputChunk",
]


@dataclass(frozen=True, repr=False)
class EncodedTextChunk(Wire):
    """A chunk of text as token ids. A list is copied once, when the chunk is made; a tuple is kept."""

    tokens: Sequence[int] = field(metadata=coded(ints))
    type: str = field(default="encoded_text", metadata=UNSENT)

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.tokens)


def _image_bytes(data: Any) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray):
        return bytes(data)
    if isinstance(data, str):
        try:
            return base64.b64decode(data)
        except (binascii.Error, ValueError) as error:
            raise FieldError(f"is not base64 text: {error}") from None
    raise FieldError(f"must be bytes, or base64 text, not {shown(data)}")


def _base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@dataclass(frozen=True, repr=False)
class ImageChunk(Wire):
    """An image by value. ``data`` is its bytes (or base64 text, which is decoded); sent as base64.

    ``expected_tokens`` is advisory: the server counts them itself, and refuses early if it disagrees.
    """

    data: bytes = field(metadata=coded(_image_bytes, _base64_text))
    format: Literal["png", "jpeg"]
    expected_tokens: Optional[int] = OMITTED
    type: str = field(default="image", metadata=UNSENT)

    @property
    def length(self) -> int:
        """``expected_tokens``; ValueError if it is None."""
        return _expected(self)


@dataclass(frozen=True, repr=False)
class ImageAssetPointerChunk(Wire):
    """An image by path or URL that the server can read."""

    format: Literal["png", "jpeg"]
    location: str
    expected_tokens: Optional[int] = OMITTED
    type: str = field(default="image_asset_pointer", metadata=UNSENT)

    @property
    def length(self) -> int:
        """``expected_tokens``; ValueError if it is None."""
        return _expected(self)


def _expected(chunk: Union[ImageChunk, ImageAssetPointerChunk]) -> int:
    if chunk.expected_tokens is None:
        raise ValueError(
            f"{type(chunk).__name__}.length needs expected_tokens, which is None: set it to have a length"
        )
    return chunk.expected_tokens


ModelInputChunk = Union[EncodedTextChunk, ImageAssetPointerChunk, ImageChunk]

_CHUNKS = (EncodedTextChunk, ImageAssetPointerChunk, ImageChunk)
#: The key that only this kind of chunk has: ``type`` is not sent.
_CHUNK_BY_KEY: Dict[str, Any] = {
    "tokens": EncodedTextChunk,
    "location": ImageAssetPointerChunk,
    "data": ImageChunk,
}


def _chunk(value: Any) -> ModelInputChunk:
    if isinstance(value, _CHUNKS):
        return value
    if not isinstance(value, dict):
        raise FieldError(f"must be a chunk of text or image, not {shown(value)}")
    kinds = [kind for key, kind in _CHUNK_BY_KEY.items() if key in value]
    if len(kinds) != 1:
        raise FieldError(
            f"a chunk has exactly one of the keys {', '.join(_CHUNK_BY_KEY)}, not {sorted(value)}"
        )
    chunk: ModelInputChunk = build(kinds[0], value)
    return chunk


def _chunks(values: Any) -> List[ModelInputChunk]:
    if not isinstance(values, (list, tuple)):
        raise FieldError(f"must be a list of chunks, not {shown(values)}")
    chunks = []
    for index, value in enumerate(values):
        try:
            chunks.append(_chunk(value))
        except FieldError as error:
            raise error.inside(f"[{index}]") from None
    return chunks


@dataclass(frozen=True, repr=False)
class ModelInput(Wire):
    """A prompt: chunks in order."""

    chunks: List[ModelInputChunk] = field(
        metadata=coded(_chunks, lambda chunks: [chunk.to_wire() for chunk in chunks])
    )

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> "ModelInput":
        """One text chunk of these token ids."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> "ModelInput":
        """No chunks."""
        return cls(chunks=[])

    def append(self, chunk: ModelInputChunk) -> "ModelInput":
        """A new input with one more chunk."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> "ModelInput":
        """A new input with one more text chunk, of one token."""
        return self.append(EncodedTextChunk(tokens=[token]))

    @property
    def length(self) -> int:
        """Tokens over all chunks; ValueError if an image does not say how many it expects to take."""
        return sum(chunk.length for chunk in self.chunks)

    def to_ints(self) -> List[int]:
        """All token ids; ValueError if there is a chunk that is not text."""
        tokens: List[int] = []
        for chunk in self.chunks:
            if not isinstance(chunk, EncodedTextChunk):
                raise ValueError(f"to_ints() is for text alone, and this input has a {type(chunk).__name__}")
            tokens.extend(chunk.tokens)
        return tokens


LossFnInputs = Dict[str, TensorData]

#: What a plain list under these keys is sent as.
_DTYPE_BY_KEY: Dict[str, Literal["int64", "float32"]] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}


def _loss_input(key: str, value: Any) -> TensorData:
    if isinstance(value, TensorData):
        return value
    if is_array(value):
        return TensorData.from_numpy(value)
    if is_tensor(value):
        return TensorData.from_torch(value)
    if isinstance(value, dict):
        return build(TensorData, value)
    if isinstance(value, (list, tuple)):
        dtype = _DTYPE_BY_KEY.get(key)
        if dtype is None:
            raise FieldError(
                f"no dtype is known for a list under {key!r} (known: {', '.join(_DTYPE_BY_KEY)});"
                f" give a numpy array, a tensor or TensorData(data=..., dtype=...) instead"
            )
        return TensorData(data=value, dtype=dtype, shape=[len(value)])
    raise FieldError(f"must be a list, an array, a tensor or a TensorData, not {shown(value)}")


def _loss_inputs(values: Any) -> Dict[str, TensorData]:
    if not isinstance(values, dict):
        raise FieldError(f"must be a dict from names to tensors, not {shown(values)}")
    converted = {}
    for key, value in values.items():
        try:
            converted[key] = _loss_input(key, value)
        except FieldError as error:
            raise error.inside(str(key)) from None
    return converted


@dataclass(frozen=True, repr=False)
class Datum(Wire):
    """One training example.

    Lists, arrays and tensors are copied once, when the datum is made, so the caller may reuse them afterwards.

    Attributes:
        loss_fn_inputs: Tensors by name, given as TensorData, numpy arrays, torch tensors or flat lists. The dtype of
            a list follows from its name: int64 for ``target_tokens``, float32 for ``weights``, ``advantages``,
            ``logprobs``, ``clip_low_threshold``, ``clip_high_threshold`` and ``sequence_ratio_mask``.
        model_input: The tokens and images that the model reads.

    Raises:
        ValueError: A list stands under any other name, or a value is not numeric.
    """

    loss_fn_inputs: Dict[str, TensorData] = field(
        metadata=coded(_loss_inputs, lambda inputs: {key: tensor.to_wire() for key, tensor in inputs.items()})
    )
    model_input: ModelInput
