"""The protobuf messages of protocol 0.38.0 as a table, and their classes, which are built from it at first use."""

from __future__ import annotations

import functools
from typing import Any, Dict, Tuple

from ..concurrency.primitives import ModuleLock
from ..errors import MissingExtraError

_PACKAGE = "tinker_public"

ENUMS = {
    "StopReason": ("STOP_REASON_STOP", "STOP_REASON_LENGTH"),
    "DType": ("DTYPE_UNSPECIFIED", "DTYPE_FLOAT32", "DTYPE_INT64", "DTYPE_INT32", "DTYPE_BFLOAT16"),
}

#: Message -> field -> (number, type, label). A label that is not in ``_LABELS`` is the name of a oneof.
MESSAGES: Dict[str, Dict[str, Tuple[int, str, str]]] = {
    "LossConfigValue": {"number": (1, "double", "value"), "text": (2, "string", "value")},
    "EncodedTextChunk": {"tokens": (1, "bytes", "one")},
    "ImageDimensions": {"width": (1, "uint32", "one"), "height": (2, "uint32", "one")},
    "ImageChunk": {
        "data": (1, "bytes", "one"),
        "format": (2, "string", "one"),
        "expected_tokens": (3, "int32", "optional"),
        "override_dimensions": (4, "ImageDimensions", "optional"),
    },
    "DmelChunk": {"dmel": (1, "bytes", "one")},
    "Chunk": {
        "encoded_text": (1, "EncodedTextChunk", "chunk"),
        "image": (2, "ImageChunk", "chunk"),
        "dmel": (3, "DmelChunk", "chunk"),
    },
    "SparseCsr": {
        "values": (1, "bytes", "one"),
        "crow_indices": (2, "bytes", "one"),
        "col_indices": (3, "bytes", "one"),
    },
    "Tensor": {
        "dense": (1, "bytes", "encoding"),
        "sparse_csr": (2, "SparseCsr", "encoding"),
        "dtype": (3, "DType", "one"),
        "shape": (4, "int64", "repeated"),
    },
    "PromptProvenanceSpan": {
        "sequence_id": (1, "string", "one"),
        "offset": (2, "int64", "one"),
        "length": (3, "int64", "one"),
    },
    "SampledProvenanceSpan": {
        "sequence_id": (1, "string", "one"),
        "offset": (2, "int64", "one"),
        "length": (3, "int64", "one"),
    },
    "ProvenanceSpan": {
        "prompt_tokens": (1, "PromptProvenanceSpan", "span"),
        "sampled_tokens": (2, "SampledProvenanceSpan", "span"),
    },
    "Datum": {
        "model_input": (1, "Chunk", "repeated"),
        "loss_fn_inputs": (2, "Tensor", "map"),
        "model_input_spans": (3, "ProvenanceSpan", "repeated"),
        "loss_fn_input_spans": (4, "ProvenanceSpan", "repeated"),
    },
    "ForwardBackwardRequest": {
        "model_id": (1, "string", "one"),
        "seq_id": (2, "int32", "one"),
        "data": (3, "Datum", "repeated"),
        "loss_fn": (4, "string", "one"),
        "loss_fn_config": (5, "double", "map"),
        "forward_only": (6, "bool", "one"),
        "loss_fn_config_v2": (7, "LossConfigValue", "map"),
    },
    "BatchedTensor": {
        "data": (1, "bytes", "one"),
        "offsets": (2, "bytes", "one"),
        "dtype": (3, "DType", "one"),
        "trailing_shape": (4, "int64", "repeated"),
    },
    "ArrayRecord": {
        "type_tag": (1, "string", "one"),
        "fields": (2, "BatchedTensor", "map"),
        "num_datums": (3, "int64", "one"),
    },
    "ForwardBackwardOutput": {
        "loss_fn_output_type": (1, "string", "one"),
        "loss_fn_outputs": (2, "ArrayRecord", "repeated"),
        "metrics": (3, "double", "map"),
    },
    "TopkLogprobs": {
        "token_ids": (1, "bytes", "one"),
        "logprobs": (2, "bytes", "one"),
        "k": (3, "uint32", "one"),
        "length": (4, "uint32", "one"),
    },
    "SampledSequence": {
        "stop_reason": (1, "StopReason", "one"),
        "tokens": (2, "bytes", "one"),
        "logprobs": (3, "bytes", "optional"),
        "topk_sampled_logprobs": (4, "TopkLogprobs", "optional"),
    },
    "PromptAltTokens": {"tokens": (1, "Tensor", "one"), "logprobs": (2, "Tensor", "one")},
    "SampleResponse": {
        "sequences": (1, "SampledSequence", "repeated"),
        "prompt_logprobs": (2, "bytes", "optional"),
        "topk_prompt_logprobs": (3, "TopkLogprobs", "optional"),
        "prompt_cache_hit_tokens": (4, "int32", "one"),
        "target_prompt_logprobs": (5, "Tensor", "optional"),
        "prompt_alt_tokens": (6, "PromptAltTokens", "optional"),
    },
}

_LABELS = ("one", "optional", "repeated", "map")
_FIXED64, _LENGTH, _VARINT = 1, 2, 0
_building = ModuleLock()


def tag(message_name: str, field: str) -> bytes:
    """Return the bytes before a value of this field, which have its number and its wire type.

    Repeated numbers are packed, as proto3 requires.
    """
    number, kind, label = MESSAGES[message_name][field]
    if label in ("repeated", "map") or kind in MESSAGES or kind in ("string", "bytes"):
        form = _LENGTH
    else:
        form = _FIXED64 if kind == "double" else _VARINT
    return bytes([number << 3 | form])


@functools.cache
def reads_protobuf() -> bool:
    """Return whether the protobuf package is installed; without it, results are requested as JSON."""
    try:
        import google.protobuf  # noqa: F401
    except ImportError:
        return False
    return True


def missing_extra(package: str) -> MissingExtraError:
    """Return the error for a package of the extra ``proto`` that is not installed."""
    return MissingExtraError(f"this server uses protobuf, which needs {package}: pip install 'tinkex-sync[proto]'")


def message(name: str) -> Any:
    """Return the class of a message. Thread-safe.

    Raises:
        MissingExtraError: The protobuf package is not installed.
    """
    with _building:
        return _classes()[name]


@functools.cache
def _classes() -> Dict[str, Any]:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise missing_extra("protobuf") from None
    file = descriptor_pb2.FileDescriptorProto(name="tinkex_sync/tinker_public.proto", package=_PACKAGE, syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        _describe(file.message_type.add(name=name), fields)
    # A private pool, because the official SDK may have added the same names to the default pool.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in MESSAGES
    }


def _describe(described: Any, fields: Dict[str, Tuple[int, str, str]]) -> None:
    oneofs = dict.fromkeys(label for _, _, label in fields.values() if label not in _LABELS)
    for name in oneofs:
        described.oneof_decl.add(name=name)
    places = {name: place for place, name in enumerate(oneofs)}
    for name, (number, kind, label) in fields.items():
        field = described.field.add(name=name, number=number)
        field.label = field.LABEL_REPEATED if label in ("repeated", "map") else field.LABEL_OPTIONAL
        if label == "map":
            entry = "".join(map(str.capitalize, name.split("_"))) + "Entry"
            nested = described.nested_type.add(name=entry)
            _describe(nested, {"key": (1, "string", "one"), "value": (2, kind, "one")})
            nested.options.map_entry = True
            field.type = field.TYPE_MESSAGE
            field.type_name = f".{_PACKAGE}.{described.name}.{entry}"
            continue
        if kind in MESSAGES or kind in ENUMS:
            field.type = field.TYPE_MESSAGE if kind in MESSAGES else field.TYPE_ENUM
            field.type_name = f".{_PACKAGE}.{kind}"
        else:
            field.type = getattr(field, f"TYPE_{kind.upper()}")
        if label in places:
            field.oneof_index = places[label]
        elif label == "optional":
            # Presence of a scalar field is a oneof with one member; these oneofs must come last.
            field.proto3_optional = True
            field.oneof_index = len(described.oneof_decl)
            described.oneof_decl.add(name=f"_{name}")
