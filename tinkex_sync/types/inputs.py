"""The inputs of a model: chunks of text and images, and the datums of a training batch."""

import base64
import binascii
from dataclasses import field
from typing import TYPE_CHECKING, Any, Dict, List, Literal, Mapping, Optional, Sequence, Tuple, Union

from .decoders import FieldError, each, ints, shorten
from .dumping import NOT_GIVEN
from .tensors import TensorData, is_array, is_tensor
from .wire import NOT_SENT, FastWire, coding

__all__ = [
    "Datum", "EncodedTextChunk", "ImageAssetPointerChunk", "ImageChunk", "LossFnInputs", "ModelInput",
    "ModelInputChunk",
]  # fmt: skip


class EncodedTextChunk(FastWire):
    """A chunk of text as token ids. A list is copied once, when the chunk is made; a tuple is kept."""

    tokens: Sequence[int] = field(metadata=coding(ints))
    type: str = field(default="encoded_text", metadata=NOT_SENT)

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)


def _image_bytes(data: Any) -> bytes:
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    if isinstance(data, str):
        try:
            return base64.b64decode(data)
        except (binascii.Error, ValueError) as error:
            raise FieldError(f"is not base64 text: {error}") from None
    raise FieldError(f"must be bytes, or base64 text, not {shorten(data)}")


class ImageChunk(FastWire):
    """An image by value.

    Attributes:
        data: The bytes of the file; base64 text is decoded. Sent as base64.
        expected_tokens: The number of tokens it takes. The server rejects the request early if its own count differs.
    """

    data: bytes = field(metadata=coding(_image_bytes, lambda data: base64.b64encode(data).decode()))
    format: Literal["png", "jpeg"]
    expected_tokens: Optional[int] = NOT_GIVEN
    type: str = field(default="image", metadata=NOT_SENT)

    @property
    def length(self) -> int:
        """Return ``expected_tokens``; ValueError if it is None."""
        return _expected(self)


class ImageAssetPointerChunk(FastWire):
    """An image by a path or URL that the server can read."""

    format: Literal["png", "jpeg"]
    location: str
    expected_tokens: Optional[int] = NOT_GIVEN
    type: str = field(default="image_asset_pointer", metadata=NOT_SENT)

    @property
    def length(self) -> int:
        """Return ``expected_tokens``; ValueError if it is None."""
        return _expected(self)


def _expected(chunk: Union[ImageChunk, ImageAssetPointerChunk]) -> int:
    if chunk.expected_tokens is None:
        raise ValueError(f"{type(chunk).__name__}.length needs expected_tokens, which is None: set expected_tokens")
    return chunk.expected_tokens


ModelInputChunk = Union[EncodedTextChunk, ImageAssetPointerChunk, ImageChunk]

#: The key that only this kind of chunk has. It identifies the kind of a chunk in JSON, because ``type`` is not sent.
_CHUNK_BY_KEY: Dict[str, Any] = {"tokens": EncodedTextChunk, "location": ImageAssetPointerChunk, "data": ImageChunk}


def _chunk(value: Any) -> ModelInputChunk:
    if isinstance(value, (EncodedTextChunk, ImageAssetPointerChunk, ImageChunk)):
        return value
    if not isinstance(value, dict):
        raise FieldError(f"must be a chunk of text or image, not {shorten(value)}")
    kinds = [kind for key, kind in _CHUNK_BY_KEY.items() if key in value]
    if len(kinds) != 1:
        raise FieldError(f"a chunk has exactly one of the keys {', '.join(_CHUNK_BY_KEY)}, not {sorted(value)}")
    chunk: ModelInputChunk = kinds[0].model_validate(value)
    return chunk


def _chunks(values: Any) -> List[ModelInputChunk]:
    return each(_chunk, values)


class ModelInput(FastWire):
    """A prompt: chunks of text and images in order."""

    chunks: List[ModelInputChunk] = field(
        metadata=coding(_chunks, lambda chunks: [chunk.to_wire() for chunk in chunks])
    )

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> "ModelInput":
        """Return an input of one text chunk with a copy of these token ids."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> "ModelInput":
        """Return an input without chunks."""
        return cls(chunks=[])

    def append(self, chunk: ModelInputChunk) -> "ModelInput":
        """Return a new input with one more chunk."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> "ModelInput":
        """Return a new input with one more text chunk, of one token."""
        return self.append(EncodedTextChunk(tokens=[token]))

    @property
    def length(self) -> int:
        """Return the number of tokens of all chunks; ValueError if an image has no ``expected_tokens``."""
        return sum(chunk.length for chunk in self.chunks)

    def to_ints(self) -> List[int]:
        """Return a new list of all token ids; ValueError if a chunk is an image."""
        tokens: List[int] = []
        for chunk in self.chunks:
            if not isinstance(chunk, EncodedTextChunk):
                raise ValueError(f"to_ints() needs an input of text only, and this input has a {type(chunk).__name__}")
            tokens.extend(chunk.tokens)
        return tokens


LossFnInputs = Dict[str, TensorData]

#: The inputs of the servers' loss functions, with the dtype of a plain list under each key.
DTYPE_BY_KEY: Dict[str, Literal["int64", "float32"]] = {
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
    if isinstance(value, dict):
        return TensorData.model_validate(value)
    if is_array(value):
        return TensorData.from_numpy(value)
    if is_tensor(value):
        return TensorData.from_torch(value)
    if isinstance(value, (list, tuple)):
        dtype = DTYPE_BY_KEY.get(key)
        if dtype is None:
            raise FieldError(
                f"no dtype is known for a list under {key!r} (known: {', '.join(DTYPE_BY_KEY)});"
                f" give a numpy array, a tensor or TensorData(data=..., dtype=...) instead"
            )
        data, shape = _flattened(value)
        return TensorData(data=data, dtype=dtype, shape=shape)
    raise FieldError(f"must be a list, an array, a tensor or a TensorData, not {shorten(value)}")


def _flattened(values: Sequence[Any]) -> Tuple[Sequence[Any], List[int]]:
    """Return the elements of nested lists in row-major order, and the extents. Rows may be arrays."""
    if values and type(values[0]) in (int, float):
        return values, [len(values)]  # TensorData checks each number
    rows = [row.tolist() if is_array(row) or is_tensor(row) else row for row in values]
    if not any(isinstance(row, (list, tuple)) for row in rows):
        return rows, [len(rows)]
    data: List[Any] = []
    first: Optional[List[int]] = None
    for index, row in enumerate(rows):
        part, shape = _flattened(row) if isinstance(row, (list, tuple)) else ([], [])
        first = shape if first is None else first
        if shape != first:
            raise FieldError(f"rows of nested lists must have one shape: row 0 has {first}, row {index} has {shape}")
        data.extend(part)
    return data, [len(rows), *(first or [])]


def _loss_inputs(values: Any) -> Dict[str, TensorData]:
    if not isinstance(values, Mapping):
        raise FieldError(f"must be a dict from names to tensors, not {shorten(values)}")
    made = {}
    for key, value in values.items():
        try:
            made[key] = _loss_input(key, value)
        except FieldError as error:
            raise error.inside(str(key)) from None
    return made


def _model_input(value: Any) -> ModelInput:
    if isinstance(value, (list, tuple, str)) or is_array(value) or is_tensor(value):
        raise FieldError(f"must be a ModelInput, not {shorten(value)}: use ModelInput.from_ints(tokens)")
    return ModelInput.model_validate(value)


class Datum(FastWire):
    """One training example.

    Lists, arrays and tensors are copied once, when the datum is made, so the caller may reuse them afterwards.

    Attributes:
        model_input: The tokens and images that the model reads.
        loss_fn_inputs: Tensors by name, given as TensorData, numpy arrays, torch tensors or lists, which may be nested:
            K targets and weights per position have the shape [positions, K]. The dtype of a list follows from its
            name: int64 for ``target_tokens``, float32 for ``weights``, ``advantages``, ``logprobs``,
            ``clip_low_threshold``, ``clip_high_threshold`` and ``sequence_ratio_mask``.

    Raises:
        ValueError: A list stands under any other name, its rows differ in length, or a value is not numeric.
    """

    model_input: ModelInput = field(metadata=coding(_model_input, ModelInput.to_wire))
    loss_fn_inputs: Dict[str, TensorData] = field(
        metadata=coding(_loss_inputs, lambda inputs: {key: tensor.to_wire() for key, tensor in inputs.items()})
    )

    wire_order = ("loss_fn_inputs",)

    if TYPE_CHECKING:
        # The constructor converts values, which a field's annotation cannot express. Not a union of types: mypy infers
        # Dict[str, object] for a dict of lists of ints and floats.
        def __init__(self, model_input: ModelInput, loss_fn_inputs: Mapping[str, Any]) -> None: ...


def known_length(prompt: ModelInput) -> int:
    """Return the number of tokens of all chunks. An image without ``expected_tokens`` counts as 0."""
    return sum(0 if getattr(chunk, "expected_tokens", 0) is None else chunk.length for chunk in prompt.chunks)
