"""Conversion of the JSON of a request to validated arrays."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..shortened import shortened
from .architecture import BaseModel
from .errors import EngineError
from .images import check_image
from .losses import LOSSES, OPTIONAL_INPUTS

#: The number of positions of an image if ``expected_tokens`` is null.
IMAGE_TOKENS = 16

_TOKEN_REMEDY = "encode text with tinkex_sync.tokenizers.ByteTokenizer"  # noqa: S105
_KNOWN_INPUTS = {"target_tokens", "weights", "logprobs", "advantages", *OPTIONAL_INPUTS}


@dataclass(frozen=True)
class Prompt:
    """A model input: ``embeddings`` of shape (time, dim), and ``tokens``, with None at the positions of images."""

    tokens: List[Optional[int]]
    embeddings: Any

    @property
    def length(self) -> int:
        """The number of positions."""
        return len(self.tokens)


@dataclass(frozen=True)
class TrainingExample:
    """A validated datum.

    ``targets`` is int64 of shape (time * width,), and each of the ``inputs`` of the loss is float32 of the same shape.
    ``width`` is the number of targets per position. ``shape`` is the shape of the targets in the request.
    """

    prompt: Prompt
    targets: Any
    inputs: Dict[str, Any]
    shape: List[int]

    @property
    def width(self) -> int:
        """The number of targets per position."""
        return 1 if len(self.shape) == 1 else self.shape[1]


def embed_prompt(base: BaseModel, chunks: Any, where: str) -> Prompt:
    """Embed the chunks of a ModelInput.

    The keys of a chunk determine its kind, because clients do not send ``type``. An image becomes ``expected_tokens``
    random vectors of the size of an embedding. Their seed is a hash of its bytes or of its location, so equal images
    have equal vectors.

    Args:
        base: The base model.
        chunks: The chunks.
        where: The place of the input in the request, for messages.

    Returns:
        The embedded input.

    Raises:
        EngineError: There are no tokens, a token is outside the vocabulary, an image cannot be read, or the input is
            too long.
    """
    if not isinstance(chunks, (list, tuple)):
        raise EngineError(f"{where}: chunks must be a list, not {shortened(chunks)}")
    _check_length(base, chunks, where)
    tokens: List[Optional[int]] = []
    parts: List[Any] = []
    for number, chunk in enumerate(chunks):
        place = f"{where}, chunk {number}"
        if not isinstance(chunk, Mapping):
            raise EngineError(
                f"{place}: {shortened(chunk)} is not a chunk: send an object with tokens, data or location"
            )
        if "tokens" in chunk:
            ids = integers(chunk["tokens"], f"{place}, tokens", base.config.vocab)
            tokens.extend(ids.tolist())
            parts.append(base.weights["embed"][ids])
        elif "data" in chunk or "location" in chunk:
            vectors = _image(base, chunk, place)
            tokens.extend([None] * len(vectors))
            parts.append(vectors)
        else:
            raise EngineError(
                f"{place}: an object with keys {sorted(chunk)} is not a chunk: send tokens, data or location"
            )
    if not tokens:
        raise EngineError(f"{where} has no tokens: give at least one, e.g. ByteTokenizer.bos_token_id")
    return Prompt(tokens, np.concatenate(parts))


def _check_length(base: BaseModel, chunks: Sequence[Any], where: str) -> None:
    """Raise EngineError if the chunks have more positions than the context.

    The embedding of a token has hundreds of bytes, so the length is checked before the tokens are embedded.
    """
    length = 0
    for chunk in chunks:
        if isinstance(chunk, Mapping):
            tokens = chunk.get("tokens")
            if isinstance(tokens, (list, tuple, np.ndarray)):
                length += len(tokens)
            elif "data" in chunk or "location" in chunk:
                count = chunk.get("expected_tokens")
                length += count if isinstance(count, int) and 0 < count <= base.config.context else IMAGE_TOKENS
    if length > base.config.context:
        raise EngineError(f"{where} has {length} tokens, {base.name} accepts at most {base.config.context}: shorten it")


def parse_datum(base: BaseModel, item: Any, index: int, loss_fn: str) -> TrainingExample:
    """Validate one datum for a loss function.

    Args:
        base: The base model.
        item: The decoded datum.
        index: The index of the datum, for messages.
        loss_fn: The name of the loss function.

    Returns:
        The training example.

    Raises:
        EngineError: The datum is not valid. The message names the datum, the key, the value and the remedy.
    """
    where = f"datum {index}"
    if not isinstance(item, Mapping) or not isinstance(item.get("model_input"), Mapping):
        raise EngineError(f"{where} has no model_input object")
    inputs = item.get("loss_fn_inputs")
    if not isinstance(inputs, Mapping):
        raise EngineError(f"{where} has no loss_fn_inputs object")
    loss = LOSSES[loss_fn]
    for key in inputs:
        if key not in _KNOWN_INPUTS:
            raise EngineError(
                f"{where}: loss_fn_inputs has the unknown key {key!r}: {loss_fn} accepts {_accepted_inputs(loss_fn)}"
            )
    missing = [key for key in ("target_tokens", *loss.required) if key not in inputs]
    if missing:
        raise EngineError(
            f"{where}: loss_fn_inputs lacks {', '.join(missing)}: {loss_fn} accepts {_accepted_inputs(loss_fn)}"
        )
    prompt = embed_prompt(base, item["model_input"].get("chunks"), f"{where}, model_input")
    time, place = prompt.length, f"{where}, target_tokens"
    data, shape = _flat(inputs["target_tokens"], time, place)
    if len(shape) == 2 and not loss.several_targets:
        raise EngineError(f"{place} has shape {shape}: {loss_fn} accepts one target per position")
    targets = integers(data, place, base.config.vocab)
    arrays: Dict[str, Any] = {}
    for key in (*loss.required, *loss.defaults, *loss.per_token):
        if key in inputs:
            data, own_shape = _flat(inputs[key], time, f"{where}, {key}")
            if own_shape != shape:
                raise EngineError(
                    f"{where}, {key} has shape {own_shape} and target_tokens has shape {shape}: they must agree"
                )
            arrays[key] = floats(data, f"{where}, {key}")
        elif key in loss.defaults:
            arrays[key] = np.full(targets.size, loss.defaults[key], np.float32)
    return TrainingExample(prompt, targets, arrays, shape)


def integers(values: Any, where: str, vocab: int) -> Any:
    """Convert token ids to int64.

    Raises:
        EngineError: A value is not an integer, or is outside 0 to ``vocab`` - 1.
    """
    try:
        array = np.asarray(values)
        if array.size == 0:
            return np.zeros(0, np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iuf":
            raise ValueError
    except ValueError:
        raise EngineError(f"{where} must be a flat list of token ids, not {shortened(values)}") from None
    wrong = np.flatnonzero(~((array >= 0) & (array < vocab) & (array == np.floor(array))))
    if wrong.size:
        raise EngineError(
            f"{where}[{wrong[0]}] is {array[wrong[0]].item()!r}: tokens of this model are 0 to {vocab - 1};"
            f" {_TOKEN_REMEDY}"
        )
    return array.astype(np.int64)


def floats(values: Any, where: str) -> Any:
    """Convert numbers to float32.

    Raises:
        EngineError: A value is not a number, NaN or infinite.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise EngineError(f"{where} must be a flat list of numbers, not {shortened(values)}") from None
    wrong = np.flatnonzero(~(np.abs(array) <= np.finfo(np.float32).max))
    if wrong.size:
        raise EngineError(
            f"{where}[{wrong[0]}] is {array[wrong[0]].item()!r}, not a finite float32: mask the position with a"
            " zero weight or advantage"
        )
    return array.astype(np.float32)


def _flat(tensor: Any, time: int, where: str) -> Tuple[Any, List[int]]:
    """Return the numbers of a TensorData and its shape, (time,) or (time, width). Nested lists are accepted."""
    data = tensor.get("data") if isinstance(tensor, Mapping) else None
    if not isinstance(data, (list, tuple, np.ndarray)):
        raise EngineError(f"{where} must be an object with data, dtype and shape, not {shortened(tensor)}")
    shape = tensor.get("shape")
    if not isinstance(data, np.ndarray) and data and isinstance(data[0], (list, tuple)):
        data, nested = _flatten(data, where)
        shape = nested if shape is None else shape
    if shape is not None and not _fits(shape, len(data), time):
        raise EngineError(
            f"{where} has shape {list(shape)} for {len(data)} numbers: send one number per position, or one row of"
            " numbers per position"
        )
    if shape is not None and len(shape) == 2:
        return data, [time, len(data) // time]
    if len(data) != time:
        raise EngineError(
            f"{where} has {len(data)} numbers but the model input has {time} positions: they must agree (for"
            " next-token training, inputs are tokens[:-1] and targets tokens[1:])"
        )
    return data, [time]


def _fits(shape: Sequence[int], count: int, time: int) -> bool:
    """Return whether a shape has ``count`` elements, in one dimension or in two with ``time`` rows."""
    if list(shape) in ([count], [-1]):
        return True
    if len(shape) != 2 or shape[0] not in (time, -1) or not count or count % time:
        return False
    return shape[1] in (count // time, -1)


def _flatten(rows: Sequence[Any], where: str) -> Tuple[List[Any], List[int]]:
    """Return the elements of nested lists, and their shape."""
    width = len(rows[0])
    for number, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) != width:
            raise EngineError(f"{where}, row {number} is {shortened(row)}: all rows must be lists of {width} numbers")
    return [value for row in rows for value in row], [len(rows), width]


def _accepted_inputs(loss_fn: str) -> str:
    loss = LOSSES[loss_fn]
    optional = (*loss.defaults, *loss.per_token)
    return ", ".join(["target_tokens", *loss.required, *(f"{key} (optional)" for key in optional)])


def _image(base: BaseModel, chunk: Mapping[str, Any], where: str) -> Any:
    count = chunk.get("expected_tokens")
    if count is None:
        count = IMAGE_TOKENS
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= base.config.context:
        raise EngineError(f"{where}: expected_tokens is {count!r}: use 1 to {base.config.context}, or null")
    content = _image_bytes(chunk, where)
    stream = np.random.RandomState(_seed_words(hashlib.sha256(content).digest()))
    return stream.standard_normal((count, base.config.dim)).astype(np.float32)


def _image_bytes(chunk: Mapping[str, Any], where: str) -> bytes:
    key = "data" if "data" in chunk else "location"
    value = chunk[key]
    if not isinstance(value, str) or not value:
        raise EngineError(f"{where}: {key} is {shortened(value)}: send a non-empty string")
    if key == "location":
        return b"location:" + value.encode("utf-8", "surrogatepass")
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EngineError(
            f"{where}: data {shortened(value)} is not base64 ({error}): encode the bytes of the image"
        ) from None
    check_image(content, chunk.get("format"), where)
    return content


def _seed_words(digest: bytes) -> Sequence[int]:
    return np.frombuffer(digest, dtype="<u4").tolist()  # type: ignore[no-any-return]


def number(value: Any, where: str, low: float = -math.inf, high: float = math.inf) -> float:
    """Check that a value is a finite number from ``low`` to ``high``, and return it as a float.

    Raises:
        EngineError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EngineError(f"{where} is {value!r}: use a finite number")
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise EngineError(f"{where} is {value!r}: use a number {bounds}")
    return float(value)


def whole(value: Any, name: str, remark: str, low: Optional[int] = None, high: Optional[int] = None) -> int:
    """Check that a value is a whole number from ``low`` to ``high``, and return it as an int. 5.0 is accepted as 5.

    Raises:
        EngineError: It is not.
    """
    right = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    if not right or (low is not None and value < low) or (high is not None and value > high):
        bounds = "" if low is None else f" of at least {low}" if high is None else f" from {low} to {high}"
        raise EngineError(f"{name} is {value!r}: use a whole number{bounds} {remark}".rstrip())
    return int(value)
