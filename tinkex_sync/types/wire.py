"""What every wire type shares: checked construction, decoding with a path to the trouble, encoding.

The only module that imports dataclasses-json. Types are mixin dataclasses, but neither decoding nor encoding
goes through the mixin: it is slow on long lists of numbers, takes ``"false"`` for True, lets null and wrong
literals pass and picks the first union member whose fields fit. What a field holds is read from its
annotation, once per class, and checked in ``__post_init__``, so that a value built by hand and one that came
from a server obey one rule.
"""

import copy
import dataclasses
import functools
import json
import reprlib
from datetime import datetime
from enum import Enum
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Literal,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from dataclasses_json import DataClassJsonMixin, config

from ..errors import APIResponseValidationError
from .dumping import Dumping
from .scalars import FieldError, boolean, floats, instant, instant_text, integer, ints, number, shown, text

__all__ = ["LATER", "NULLABLE", "OMITTED", "UNSENT", "Wire", "build", "coded"]

Self = TypeVar("Self", bound="Wire")
Decode = Callable[[Any], Any]
Encode = Callable[[Any], Any]


class _Omitted:
    """Stands for an argument that was not given, where null would be sent if it was given as None."""

    def __repr__(self) -> str:
        return "None"

    def __reduce__(self) -> str:
        return "OMITTED"


OMITTED: Any = _Omitted()


#: Metadata of a field whose None is sent as null instead of staying out.
NULLABLE: Mapping[str, Any] = {"sent": "null"}
#: Metadata of a field that came after 0.7.0: in dicts and JSON made of the object only if it has a value.
LATER: Mapping[str, Any] = {"later": True}
#: Metadata of the ``type`` of a request or chunk: known to the reader, never sent.
UNSENT: Mapping[str, Any] = {"sent": "never"}


def coded(decode: Decode, encode: Optional[Encode] = None) -> Dict[str, Any]:
    """Metadata of a field that is decoded and encoded by functions of its own, not by its annotation."""
    return dict(config(decoder=decode, encoder=encode or _as_is))


class Wire(Dumping, DataClassJsonMixin):
    """Base of every wire type: a frozen dataclass that checks itself and knows its JSON.

    Building one with a value its field cannot hold raises ValueError naming the field; harmless spellings are
    taken as the official SDK takes them (``1`` for a float, ``"5"`` for an int). Lists of
    numbers are checked as a whole and copied once, so the caller may change or reuse its own list afterwards.
    """

    def __post_init__(self) -> None:
        values = self.__dict__
        for name, decode in _decoders(type(self)):
            value = values[name]
            if value is OMITTED:
                values[name] = None
                continue
            try:
                decoded = decode(value)
            except FieldError as error:
                raise error.inside(name, owner=type(self).__name__) from None
            if decoded is not value:
                values[name] = decoded
            elif decoded is None and name in _spelled(type(self)):
                values["_nulls"] = (*values.get("_nulls", ()), name)

    @classmethod
    def from_wire(cls: Type[Self], obj: Any, path: str = "") -> Self:
        """Build one from decoded JSON; keys it does not know are ignored.

        Args:
            path: Where ``obj`` stands in the whole body, for the error.

        Raises:
            APIResponseValidationError: ``.path`` says what does not fit, such as ``sequences[0].tokens``.
        """
        try:
            return build(cls, obj)
        except FieldError as error:
            if path:
                error.inside(path)
            where = f" at {error.path}" if error.path else ""
            raise APIResponseValidationError(
                f"Cannot read the server's answer as {cls.__name__}{where}: {error.problem}",
                body=obj,
                path=error.path,
            ) from None

    def to_wire(self) -> Dict[str, Any]:
        """Return the fields in wire order, ready for orjson; lists and arrays in it belong to this object."""
        values = self.__dict__
        body: Dict[str, Any] = {}
        for name, encode, sent in _encoders(type(self)):
            value = values[name]
            if value is None:
                if sent == "null" or name in values.get("_nulls", ()):
                    body[name] = None
            else:
                body[name] = value if encode is None else encode(value)
        return body

    @classmethod
    def from_dict(cls: Type[Self], kvs: Any, *, infer_missing: bool = False) -> Self:
        """The same as :meth:`from_wire`; ``infer_missing`` is accepted for dataclasses-json's sake."""
        return cls.from_wire(kvs)

    @classmethod
    def model_validate(cls: Type[Self], obj: Any) -> Self:
        """``obj`` itself if it is one, else one built from a dict; keys it does not know are ignored.

        Raises:
            ValueError: it does not fit; the text says where.
        """
        return build(cls, obj)

    @classmethod
    def model_validate_json(cls: Type[Self], json_data: Union[str, bytes, bytearray]) -> Self:
        """:meth:`model_validate` of JSON text."""
        return build(cls, json.loads(json_data))

    def model_copy(self: Self, *, update: Optional[Mapping[str, Any]] = None, deep: bool = False) -> Self:
        """A copy, with the fields of ``update`` replaced and checked.

        Raises:
            ValueError: a value does not fit its field, or there is no such field.
        """
        made = copy.deepcopy(self) if deep else copy.copy(self)
        if not update:
            return made
        unknown = sorted(set(update) - set(_names(type(self))[0]))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no field {', '.join(map(repr, unknown))}")
        values = made.__dict__
        nulls = values.get("_nulls", ())
        # A None that was not given stays so.
        kept = {
            name: values[name] for name in _names(type(self))[0] if values[name] is not None or name in nulls
        }
        return type(self)(**{**kept, **update})

    def __repr__(self) -> str:
        told = (f.name for f in dataclasses.fields(self) if f.metadata.get("sent") != "never")  # type: ignore[arg-type]
        inside = ", ".join(f"{name}={_brief(getattr(self, name))}" for name in told)
        return f"{type(self).__name__}({inside})"


def build(cls: Type[Self], obj: Any) -> Self:
    """``obj`` itself if it is one, else one built from its keys; FieldError if it does not fit."""
    if not isinstance(obj, dict):
        if isinstance(obj, cls):
            return obj
        raise FieldError(f"expected an object, not {shown(obj)}")
    names, required = _names(cls)
    for name in required:
        if name not in obj:
            raise FieldError("is missing").inside(name)
    return cls(**{name: obj[name] for name in names if name in obj})


class _Codec(NamedTuple):
    decode: Decode
    #: None where the value is its own JSON.
    encode: Optional[Encode]


def _as_is(value: Any) -> Any:
    return value


_SCALARS: Dict[Any, _Codec] = {
    str: _Codec(text, None),
    int: _Codec(integer, None),
    float: _Codec(number, None),
    bool: _Codec(boolean, None),
    datetime: _Codec(instant, instant_text),
    List[int]: _Codec(ints, None),
    List[float]: _Codec(floats, None),
    Any: _Codec(_as_is, None),
}


def _codec(hint: Any) -> _Codec:
    """How a field of this annotation is read and written."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Union and len(args) == 2 and args[1] is type(None):
        inner = _codec(args[0])
        return _Codec(lambda value: None if value is None else inner.decode(value), inner.encode)
    if origin is Literal:
        return _Codec(functools.partial(_one_of, args), None)
    if origin is list:
        inner = _codec(args[0])
        item_encode = inner.encode
        return _Codec(
            functools.partial(_list_of, inner.decode),
            (lambda values: [item_encode(value) for value in values]) if item_encode else None,
        )
    if origin is dict:
        inner = _codec(args[1])
        value_encode = inner.encode
        return _Codec(
            functools.partial(_dict_of, inner.decode),
            (lambda values: {key: value_encode(value) for key, value in values.items()})
            if value_encode
            else None,
        )
    if isinstance(hint, type) and issubclass(hint, Wire):
        return _Codec(functools.partial(build, hint), hint.to_wire)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _Codec(hint, lambda value: value.value)
    raise TypeError(f"no rule for a wire field of type {hint}")


def _one_of(choices: Tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise FieldError(f"must be one of {', '.join(map(repr, choices))}, not {shown(value)}")
    return value


def _list_of(decode: Decode, values: Any) -> List[Any]:
    if not isinstance(values, (list, tuple)):
        raise FieldError(f"expected a list, not {shown(values)}")
    decoded = []
    for index, value in enumerate(values):
        try:
            decoded.append(decode(value))
        except FieldError as error:
            raise error.inside(f"[{index}]") from None
    return decoded


def _dict_of(decode: Decode, values: Any) -> Dict[str, Any]:
    if not isinstance(values, Mapping):
        raise FieldError(f"expected an object, not {shown(values)}")
    decoded = {}
    for key, value in values.items():
        try:
            decoded[text(key)] = decode(value)
        except FieldError as error:
            raise error.inside(str(key)) from None
    return decoded


@functools.cache
def _plan(cls: Type[Wire]) -> Tuple[Tuple[str, _Codec, str], ...]:
    hints = get_type_hints(cls)
    plan = []
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        own = field.metadata.get("dataclasses_json")
        if own is None:
            codec = _codec(hints[field.name])
        else:
            codec = _Codec(own["decoder"], None if own["encoder"] is _as_is else own["encoder"])
        plan.append((field.name, codec, field.metadata.get("sent", "value")))
    return tuple(plan)


@functools.cache
def _decoders(cls: Type[Wire]) -> Tuple[Tuple[str, Decode], ...]:
    return tuple((name, codec.decode) for name, codec, _sent in _plan(cls))


@functools.cache
def _encoders(cls: Type[Wire]) -> Tuple[Tuple[str, Optional[Encode], str], ...]:
    rows = [(name, codec.encode, sent) for name, codec, sent in _plan(cls) if sent != "never"]
    order: Tuple[str, ...] = getattr(cls, "_wire_order", ())
    return tuple(sorted(rows, key=lambda row: order.index(row[0]) if row[0] in order else len(order)))


@functools.cache
def _spelled(cls: Type[Wire]) -> Tuple[str, ...]:
    """Fields whose None is sent as null if it was given, and stays out if it was not."""
    return tuple(f.name for f in dataclasses.fields(cls) if f.default is OMITTED)  # type: ignore[arg-type]


@functools.cache
def _names(cls: Type[Wire]) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    missing = dataclasses.MISSING
    required = (f.name for f in fields if f.default is missing and f.default_factory is missing)
    return tuple(f.name for f in fields), tuple(required)


_HEAD = 8  # elements of a long list that its repr shows
_short = reprlib.Repr()
_short.maxstring = 200


def _brief(value: Any) -> str:
    """``repr``, with long lists, arrays, strings and bytes cut to their beginning and size."""
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
