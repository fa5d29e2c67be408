"""The base classes of all wire types, and the only module that imports dataclasses-json.

A field's annotation selects a strict decoder, which is stored in the field's metadata. dataclasses-json decodes with
it, and the constructor checks with it, so that a value built by hand and one from a server follow one rule. The
decoders close the gaps of dataclasses-json, which reads ``"false"`` as True, passes nulls and wrong literals, and takes
the first class of a union whose fields fit.

:class:`Wire` encodes and decodes by dataclasses-json, which inspects the class at every call (about 0.1 ms).
:class:`FastWire` reads the same metadata once per class, for the types of samples and batches.
"""

import copy
import dataclasses
import functools
import json
import reprlib
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Literal,
    Mapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import orjson
from dataclasses_json import DataClassJsonMixin, config

from ..errors import APIResponseValidationError
from . import decoders
from .decoders import FieldError, shorten
from .dumping import NOT_GIVEN, ModelFields, dump

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:
    # At run time it only marks the class, and Python has it from 3.11 on.
    def dataclass_transform(**_options):
        return lambda cls: cls


Self = TypeVar("Self", bound="Wire")
Decode = Callable[[Any], Any]
Encode = Callable[[Any], Any]


#: Metadata of a field whose None is sent as null. Other fields are left out while they are None.
SENT_AS_NULL: Mapping[str, Any] = MappingProxyType({"sent_as_null": True})
#: Metadata of the ``type`` of a request or chunk: part of the official classes, never part of a body.
NOT_SENT: Mapping[str, Any] = MappingProxyType({"not_sent": True})


def since(version: str) -> Dict[str, Any]:
    """Return the metadata of an optional field that a later protocol added: it is sent and dumped only if it is set."""
    return {"since": version}


def coding(decode: Decode, encode: Optional[Encode] = None) -> Dict[str, Any]:
    """Return the metadata of a field with functions of its own, which get and return None themselves where allowed."""
    return {"decode": decode, "encode": encode}


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Wire(DataClassJsonMixin):
    """Base of every wire type. Each subclass becomes a frozen dataclass that checks its values and knows its JSON.

    A value that its field cannot hold raises ValueError with the field's name. Lists are copied once, so the caller may
    reuse its own. Instances are immutable, and safe to share between threads.
    """

    #: Fields by name, of the class and of its instances.
    model_fields = ModelFields()
    #: Fields that come first in the body, where that differs from their declared order.
    wire_order: Tuple[str, ...] = ()
    #: Fields whose default is NOT_GIVEN.
    _null_if_given: Tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, hint in cls.__dict__.get("__annotations__", {}).items():
            declared = cls.__dict__.get(name, dataclasses.MISSING)
            if not isinstance(declared, dataclasses.Field):
                declared = dataclasses.field(default=declared)
            declared.metadata = MappingProxyType(
                {**declared.metadata, **_metadata(name, hint, declared.metadata)}
            )
            setattr(cls, name, declared)
            if declared.default is NOT_GIVEN:
                cls._null_if_given += (name,)
        dataclasses.dataclass(frozen=True, repr=False)(cls)

    def __post_init__(self) -> None:
        values = self.__dict__
        if self._null_if_given:
            values["_nulls"] = tuple(name for name in self._null_if_given if values[name] is None)
            values.update((name, None) for name in self._null_if_given if values[name] is NOT_GIVEN)
        for name, decode in _decoders(type(self)):
            try:
                values[name] = decode(values[name])
            except FieldError as error:
                error.inside(name).owner = type(self).__name__
                raise

    @classmethod
    def from_wire(cls: Type[Self], obj: Any) -> Self:
        """Build an object from decoded JSON of a response; unknown keys are ignored.

        Raises:
            APIResponseValidationError: A value does not fit; ``.path`` is its place, such as ``sequences[0].tokens``.
        """
        try:
            return decode_object(cls, obj)
        except FieldError as error:
            where = f" at {error.path}" if error.path else ""
            raise APIResponseValidationError(
                f"Cannot decode the response as {cls.__name__}{where}: {error.problem}",
                body=obj,
                path=error.path,
            ) from None

    def to_wire(self) -> Dict[str, Any]:
        """Return the body's fields in wire order, ready for orjson. Lists and arrays in it belong to this object."""
        body = DataClassJsonMixin.to_dict(self)
        first = {name: body[name] for name in self.wire_order if name in body}
        return {**first, **body}

    def to_dict(self, encode_json: bool = False) -> Dict[str, Any]:
        """Return :meth:`to_wire`; ``encode_json`` is accepted because dataclasses-json passes it."""
        return self.to_wire()

    @classmethod
    def from_dict(cls: Type[Self], kvs: Any, *, infer_missing: bool = False) -> Self:
        """Return :meth:`model_validate`; ``infer_missing`` is accepted because dataclasses-json passes it."""
        return decode_object(cls, kvs)

    @classmethod
    def model_validate(cls: Type[Self], obj: Any) -> Self:
        """Return ``obj`` if it is an instance, else an object built from a dict; unknown keys are ignored.

        Raises:
            ValueError: A value does not fit; the message has its place.
        """
        return decode_object(cls, obj)

    @classmethod
    def model_validate_json(cls: Type[Self], json_data: Union[str, bytes, bytearray]) -> Self:
        """Return :meth:`model_validate` of JSON text."""
        return decode_object(cls, json.loads(json_data))

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
        return dump(
            self,
            mode,
            include=include,
            exclude=exclude,
            exclude_defaults=exclude_defaults or exclude_unset,
            exclude_none=exclude_none,
        )

    def model_dump_json(self, *, indent: Optional[int] = None, **options: Any) -> str:
        """Return :meth:`model_dump` as JSON text, compact or indented; NaN and infinities become null."""
        text = orjson.dumps(self.model_dump(mode="json", **options)).decode()
        return text if indent is None else json.dumps(json.loads(text), indent=indent, ensure_ascii=False)

    def model_copy(self: Self, *, update: Optional[Mapping[str, Any]] = None, deep: bool = False) -> Self:
        """Return a copy, with the fields of ``update`` replaced and checked.

        Raises:
            ValueError: A value does not fit its field, or there is no field of that name.
        """
        made = copy.deepcopy(self) if deep else copy.copy(self)
        if not update:
            return made
        names = [name for name, _required in _names(type(self))]
        unknown = sorted(set(update) - set(names))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}")
        values = made.__dict__
        # A None that was not passed is not passed on, so that it is not sent as null.
        kept = {name: values[name] for name in names if values[name] is not None or name in _nulls(made)}
        return type(self)(**{**kept, **update})

    def __repr__(self) -> str:
        shown = (one.name for one in dataclasses.fields(self) if one.repr and "not_sent" not in one.metadata)  # type: ignore[arg-type]
        return (
            f"{type(self).__name__}({', '.join(f'{name}={_brief(getattr(self, name))}' for name in shown)})"
        )


class FastWire(Wire):
    """Base of the types on hot paths. Same rules as :class:`Wire`, without dataclasses-json's inspection per call."""

    def to_wire(self) -> Dict[str, Any]:
        values = self.__dict__
        nulls = _nulls(self)
        body: Dict[str, Any] = {}
        for name, encode, sent_as_null in _encoders(type(self)):
            value = values[name]
            if value is not None:
                body[name] = encode(value) if encode else value
            elif sent_as_null or name in nulls:
                body[name] = None
        return body


def decode_object(cls: Type[Self], obj: Any) -> Self:
    """Return ``obj`` if it is an instance, else one built from a dict; FieldError if it does not fit."""
    if isinstance(obj, cls):
        return obj
    if not isinstance(obj, dict):
        raise FieldError(f"expected an object, not {shorten(obj)}")
    for name, required in _names(cls):
        if required and name not in obj:
            raise FieldError("is missing").inside(name)
    try:
        if issubclass(cls, FastWire):
            return cls(**{name: obj[name] for name, _required in _names(cls) if name in obj})
        for name, decode in _decoders(cls):
            if obj.get(name, ...) is None:
                _named(name, decode, None)  # dataclasses-json skips the decoder for null
        return DataClassJsonMixin.from_dict.__func__(cls, obj)  # type: ignore[attr-defined, no-any-return]
    except FieldError as error:
        error.owner = ""  # the path from the outermost object is enough
        raise


def _nulls(value: Wire) -> Tuple[str, ...]:
    nulls: Tuple[str, ...] = value.__dict__.get("_nulls", ())
    return nulls


# Metadata from annotations


def _metadata(name: str, hint: Any, declared: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what dataclasses-json needs for one field: decoder, encoder and the rule for leaving it out."""
    decode, encode = (declared["decode"], declared["encode"]) if "decode" in declared else _coding(hint)
    leave_out: Optional[Callable[[Any], bool]] = _is_none
    if "not_sent" in declared:
        leave_out = _always
    elif "sent_as_null" in declared:
        leave_out = None
    # With an encoder for every field, dataclasses-json does not deep-copy the values.
    made = config(decoder=functools.partial(_named, name, decode), encoder=encode or _same, exclude=leave_out)
    return {**made, "decode": decode, "encode": encode}


def _named(name: str, decode: Decode, value: Any) -> Any:
    try:
        return decode(value)
    except FieldError as error:
        raise error.inside(name) from None


def _same(value: Any) -> Any:
    return value


def _is_none(value: Any) -> bool:
    return value is None


def _always(value: Any) -> bool:
    return True


_SCALARS: Dict[Any, Tuple[Decode, Optional[Encode]]] = {
    str: (decoders.text, None),
    int: (decoders.integer, None),
    float: (decoders.number, None),
    bool: (decoders.boolean, None),
    datetime: (decoders.instant, decoders.instant_text),
    List[int]: (decoders.ints, None),
    List[float]: (decoders.floats, None),
    Any: (_same, None),
}


def _coding(hint: Any) -> Tuple[Decode, Optional[Encode]]:
    """Return the decoder and the encoder for an annotation; encoder None if the value is its own JSON."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return functools.partial(_one_of, args), None
    if origin is Union and len(args) == 2 and args[1] is type(None):
        decode, encode = _coding(args[0])
        return functools.partial(_unless_none, decode), functools.partial(
            _unless_none, encode
        ) if encode else None
    if origin is list:
        decode, encode = _coding(args[0])
        return functools.partial(decoders.each, decode), functools.partial(_each, encode) if encode else None
    if origin is dict:
        decode, encode = _coding(args[1])
        return functools.partial(_mapping, decode), functools.partial(_values, encode) if encode else None
    if isinstance(hint, type) and issubclass(hint, Wire):
        return functools.partial(decode_object, hint), hint.to_wire
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint, None
    raise TypeError(f"no decoder for {hint!r}: give the field metadata=coding(decode, encode)")


def _one_of(values: Tuple[Any, ...], value: Any) -> Any:
    if value in values:
        return value
    raise FieldError(f"must be one of {', '.join(map(repr, values))}, not {shorten(value)}")


def _unless_none(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def _each(encode: Encode, values: List[Any]) -> List[Any]:
    return [encode(value) for value in values]


def _values(encode: Encode, values: Mapping[str, Any]) -> Dict[str, Any]:
    return {key: encode(value) for key, value in values.items()}


def _mapping(decode: Decode, values: Any) -> Dict[str, Any]:
    if not isinstance(values, Mapping):
        raise FieldError(f"expected an object, not {shorten(values)}")
    decoded = {}
    for key, value in values.items():
        try:
            decoded[decoders.text(key)] = decode(value)
        except FieldError as error:
            raise error.inside(str(key)) from None
    return decoded


# Metadata read once per class


@functools.cache
def _decoders(cls: Type[Wire]) -> Tuple[Tuple[str, Decode], ...]:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return tuple((one.name, one.metadata["decode"]) for one in fields)


@functools.cache
def _encoders(cls: Type[Wire]) -> Tuple[Tuple[str, Optional[Encode], bool], ...]:
    sent = [one for one in dataclasses.fields(cls) if "not_sent" not in one.metadata]  # type: ignore[arg-type]
    sent.sort(key=lambda one: one.name not in cls.wire_order)
    return tuple((one.name, one.metadata["encode"], "sent_as_null" in one.metadata) for one in sent)


@functools.cache
def _names(cls: Type[Wire]) -> Tuple[Tuple[str, bool], ...]:
    """Return every field's name and whether it is required."""
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return tuple((one.name, one.default is missing and one.default_factory is missing) for one in fields)


_HEAD = 8  # elements of a long list that its repr shows
_short = reprlib.Repr()
_short.maxstring = 200


def _brief(value: Any) -> str:
    """Return a repr in which long lists, arrays, strings and bytes are cut to their beginning and size."""
    if isinstance(value, (bytes, bytearray)):
        return repr(value) if len(value) <= 24 else f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_brief(inner)}" for key, inner in value.items()) + "}"
    if type(value) is str:
        return _short.repr(value)
    array = not isinstance(value, Wire) and hasattr(value, "tolist")
    if not array and not isinstance(value, (list, tuple)):
        return repr(value)
    head = value[:_HEAD].tolist() if array else value[:_HEAD]
    size = f", ... {len(value)} in all" if len(value) > _HEAD else ""
    return f"[{', '.join(map(_brief, head))}{size}]"
