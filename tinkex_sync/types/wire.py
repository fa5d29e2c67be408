"""The base classes of all wire types, and the only module that imports dataclasses-json.

A field's annotation selects a strict decoder, which is stored in the field's metadata. dataclasses-json and the
constructor both use this decoder. A value that the caller creates and a value from a response therefore follow the same
rule. Without these decoders, dataclasses-json decodes ``"false"`` as True and accepts nulls and invalid literals. For a
union, it selects the first class whose fields match.

:class:`Wire` encodes and decodes with dataclasses-json, which inspects the class at every call (about 0.1 ms).
:class:`FastWire` reads the same metadata once per class. The types of samples and batches use it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Collection, Dict, List, Mapping, Optional, Tuple, Union

import orjson
from dataclasses_json import DataClassJsonMixin, config

from ..errors import APIResponseValidationError
from .decoders import Convert, FieldError, coders, decode_at, shorten
from .dumping import NOT_GIVEN, FieldInfo, Form, default_of, plain

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:
    # At run time it only marks the class, and Python has it from 3.11 on.
    def dataclass_transform(**_options):
        return lambda cls: cls


#: Metadata of a field whose None is sent as null. Other fields are left out while they are None.
SENT_AS_NULL: Mapping[str, Any] = MappingProxyType({"sent_as_null": True})
#: Metadata of the ``type`` of a request or chunk: part of the official classes, never part of a body.
NOT_SENT: Mapping[str, Any] = MappingProxyType({"not_sent": True})


def since(version: str) -> Dict[str, Any]:
    """Return the metadata of an optional field that a later protocol added: it is sent and dumped only if it is set."""
    return {"since": version}


def coding(decode: Convert, encode: Optional[Convert] = None) -> Dict[str, Any]:
    """Return the metadata of a field with functions of its own. They do not get None if the field is optional."""
    return {"coding": (decode, encode)}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Wire(DataClassJsonMixin):
    """Base of every wire type. Each subclass is a frozen dataclass that checks its values and converts JSON.

    A value that its field cannot hold raises ValueError with the field's name. Lists are copied once, so the caller may
    reuse its own. Instances are immutable, and safe to share between threads.
    """

    #: Fields by name.
    model_fields: ClassVar[Dict[str, FieldInfo]] = {}
    #: Fields that come first in the body, where that differs from their declared order.
    wire_order: ClassVar[Tuple[str, ...]] = ()
    #: Decoders of all fields by name, and the defaults, which need no decoding.
    _decoders: ClassVar[Dict[str, Convert]] = {}
    _defaults: ClassVar[Dict[str, Any]] = {}
    #: Name, encoder, and whether None is sent as null, of the fields in the body.
    _encoders: ClassVar[List[Tuple[str, Optional[Convert], bool]]] = []
    #: Fields whose default is NOT_GIVEN, and those of them for which None was passed.
    _null_if_given: ClassVar[List[str]] = []
    _nulls: ClassVar[Tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, hint in cls.__dict__.get("__annotations__", {}).items():
            declared = cls.__dict__.get(name, dataclasses.MISSING)
            if not isinstance(declared, dataclasses.Field):
                declared = dataclasses.field(default=declared)
            declared.metadata = MappingProxyType(_metadata(name, hint, declared.metadata))
            setattr(cls, name, declared)
        fields = dataclasses.fields(dataclasses.dataclass(frozen=True, repr=False)(cls))  # type: ignore[arg-type]
        cls.model_fields = {one.name: FieldInfo(one.type, default_of(one)) for one in fields}
        cls._decoders = {one.name: one.metadata["decode"] for one in fields}
        cls._defaults = {one.name: None if one.default is NOT_GIVEN else one.default for one in fields}
        sent = [one for one in fields if "not_sent" not in one.metadata]
        sent.sort(key=lambda one: one.name not in cls.wire_order)
        cls._encoders = [(one.name, one.metadata["encode"], "sent_as_null" in one.metadata) for one in sent]
        cls._null_if_given = [one.name for one in fields if one.default is NOT_GIVEN]

    def __post_init__(self) -> None:
        values = self.__dict__
        for name in self._null_if_given:
            if values[name] is NOT_GIVEN:
                values[name] = None
            elif values[name] is None:
                values["_nulls"] = (*self._nulls, name)
        defaults = self._defaults
        for name, decode in self._decoders.items():
            value = values[name]
            if value is defaults[name]:
                continue
            try:
                values[name] = decode(value)
            except FieldError as error:
                error.inside(name).owner = type(self).__name__
                raise

    @classmethod
    def from_wire(cls, obj: Any) -> Self:
        """Build an object from decoded JSON of a response; unknown keys are ignored.

        Raises:
            APIResponseValidationError: A value does not fit; ``.path`` is its place, such as ``sequences[0].tokens``.
        """
        try:
            return cls.model_validate(obj)
        except FieldError as error:
            where = f" at {error.path}" if error.path else ""
            raise APIResponseValidationError(
                f"Cannot decode the response as {cls.__name__}{where}: {error.problem}", body=obj, path=error.path
            ) from None

    def to_wire(self) -> Dict[str, Any]:
        """Return the body's fields in wire order, ready for orjson. Lists and arrays in it belong to this object."""
        body = super().to_dict()
        first = {name: body[name] for name in self.wire_order if name in body}
        return {**first, **body}

    def to_dict(self, encode_json: bool = False) -> Dict[str, Any]:
        """Return :meth:`to_wire`; ``encode_json`` is accepted because dataclasses-json passes it."""
        return self.to_wire()

    @classmethod
    def from_dict(cls, kvs: Any, *, infer_missing: bool = False) -> Self:
        """Return :meth:`model_validate`; ``infer_missing`` is accepted because dataclasses-json passes it."""
        return cls.model_validate(kvs)

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """Return ``obj`` if it is an instance, else an object built from a dict; unknown keys are ignored.

        Raises:
            ValueError: A value does not fit; the message has its place.
        """
        if isinstance(obj, cls):
            return obj
        if not isinstance(obj, dict):
            raise FieldError(f"expected an object, not {shorten(obj)}")
        for name, field in cls.model_fields.items():
            if name not in obj and field.is_required():
                raise FieldError("is missing").inside(name)
        try:
            if issubclass(cls, FastWire):
                return cls(**{name: obj[name] for name in cls._decoders if name in obj})
            for name, decode in cls._decoders.items():
                if obj.get(name, ...) is None:
                    decode_at(name, decode, None)  # dataclasses-json skips the decoder for null
            return super().from_dict(obj)
        except FieldError as error:
            error.owner = ""  # the path from the outermost object is enough
            raise

    @classmethod
    def model_validate_json(cls, json_data: Union[str, bytes, bytearray]) -> Self:
        """Return :meth:`model_validate` of JSON text."""
        return cls.model_validate(json.loads(json_data))

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Optional[Collection[str]] = None,
        exclude: Optional[Collection[str]] = None,
        by_alias: Optional[bool] = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
    ) -> Dict[str, Any]:
        """Return every field of protocol 0.7.0 in declared order, and later fields if they are set.

        Args:
            mode: "python" keeps enums, tuples and datetimes; "json" converts them. Bytes become base64 text in both.
            include, exclude: Names of fields of this object, not of objects inside it.
            by_alias: Accepted and ignored, because no field has an alias.
            exclude_unset: Same as ``exclude_defaults``, because objects do not record which values were passed.
            exclude_defaults, exclude_none: Leave such fields out, at every depth.
        """
        if mode not in ("python", "json"):
            raise ValueError(f'mode must be "python" or "json", not {mode!r}')
        dumped = plain(self, Form(mode == "python", exclude_defaults or exclude_unset, exclude_none))
        return {
            name: value
            for name, value in dumped.items()
            if (include is None or name in include) and (exclude is None or name not in exclude)
        }

    def model_dump_json(self, *, indent: Optional[int] = None, **options: Any) -> str:
        """Return :meth:`model_dump` as JSON text, compact or indented; NaN and infinities become null."""
        text = orjson.dumps(self.model_dump(mode="json", **options)).decode()
        return text if indent is None else json.dumps(json.loads(text), indent=indent, ensure_ascii=False)

    def model_copy(self, *, update: Optional[Mapping[str, Any]] = None, deep: bool = False) -> Self:
        """Return a copy, with the fields of ``update`` replaced and checked.

        Raises:
            ValueError: A value does not fit its field, or there is no field of that name.
        """
        made = copy.deepcopy(self) if deep else copy.copy(self)
        if not update:
            return made
        unknown = sorted(set(update) - set(self.model_fields))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}")
        values = ((name, getattr(made, name)) for name in self.model_fields)
        # A None that was not passed is not passed on, so that it is not sent as null.
        kept = {name: value for name, value in values if value is not None or name in self._nulls}
        return type(self)(**{**kept, **update})

    def with_checked(self, **values: Any) -> Self:
        """Return a copy with fields replaced by values that need no check."""
        made = copy.copy(self)
        made.__dict__.update(values)
        return made

    def __repr__(self) -> str:
        shown = (one.name for one in dataclasses.fields(self) if one.repr and "not_sent" not in one.metadata)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={_brief(getattr(self, name))}' for name in shown)})"


class FastWire(Wire):
    """Base of the types on hot paths. Same rules as :class:`Wire`, without dataclasses-json's inspection per call."""

    def to_wire(self) -> Dict[str, Any]:
        values = self.__dict__
        body: Dict[str, Any] = {}
        for name, encode, sent_as_null in self._encoders:
            value = values[name]
            if value is not None:
                body[name] = encode(value) if encode else value
            elif sent_as_null or name in self._nulls:
                body[name] = None
        return body


def _metadata(name: str, hint: Any, declared: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what dataclasses-json needs for one field: decoder, encoder and the rule for leaving it out."""
    decode, encode = coders(hint, declared.get("coding"))

    def is_left_out(value: Any) -> bool:
        return "not_sent" in declared or (value is None and "sent_as_null" not in declared)

    # With an encoder for every field, dataclasses-json does not deep-copy the values.
    made = config(
        decoder=functools.partial(decode_at, name, decode), encoder=encode or (lambda value: value), exclude=is_left_out
    )
    return {**declared, **made, "decode": decode, "encode": encode}


_HEAD = 8  # elements of a long list that its repr shows


def _brief(value: Any) -> str:
    """Return a repr in which long lists, arrays, strings and bytes are cut to their beginning and size."""
    if isinstance(value, bytes) and len(value) > 24:
        return f"<{len(value)} bytes>"
    if isinstance(value, str) and len(value) > 200:
        return f"{value[:200]!r}... {len(value)} in all"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_brief(inner)}" for key, inner in value.items()) + "}"
    is_array = not isinstance(value, Wire) and hasattr(value, "tolist")
    if not is_array and not isinstance(value, (list, tuple)):
        return repr(value)
    head = value[:_HEAD].tolist() if is_array else value[:_HEAD]
    size = f", ... {len(value)} in all" if len(value) > _HEAD else ""
    return f"[{', '.join(map(_brief, head))}{size}]"
