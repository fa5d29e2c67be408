"""Wire types as plain dicts, under the names that pydantic gave the methods of the official SDK's models."""

from __future__ import annotations

import base64
import dataclasses
from datetime import datetime
from enum import Enum
from typing import Any, Callable, Collection, Dict, NamedTuple, Optional

from .decoders import instant_text


class _NotGiven:
    def __repr__(self) -> str:
        return "None"

    def __reduce__(self) -> str:
        return "NOT_GIVEN"


#: Default of a field that is sent as null if None was passed, and left out if no value was passed.
NOT_GIVEN: Any = _NotGiven()


class FieldInfo(NamedTuple):
    """One field of a type, as ``model_fields`` describes it."""

    annotation: Any
    #: ``...`` if a value is required.
    default: Any

    def is_required(self) -> bool:
        """Return whether a value is required."""
        return self.default is ...

    def get_default(self, *, call_default_factory: bool = False) -> Any:
        """Return the default value; None if a value is required."""
        return None if self.default is ... else self.default


class ModelFields:
    """Descriptor of ``model_fields``: the fields of a wire type by name."""

    def __get__(self, instance: object, owner: Any) -> Dict[str, FieldInfo]:
        # help() reads class attributes of every base class, and the base classes are not dataclasses.
        if not dataclasses.is_dataclass(owner):
            return {}
        return {field.name: FieldInfo(field.type, _default(field)) for field in dataclasses.fields(owner)}


def _default(field: Any) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        return ...
    return None if field.default is NOT_GIVEN else field.default


class _Form(NamedTuple):
    """How a dump writes values that JSON cannot express, and which fields it leaves out."""

    python: bool
    leaves_out: Callable[[Any, Any], bool]


def _plain(value: Any, form: _Form) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {
            field.name: _plain(held, form)
            for field, held in pairs
            if not (form.leaves_out(field, held) or (held is None and "since" in field.metadata))
        }
    if isinstance(value, dict):
        return {key: _plain(held, form) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(held, form) for held in value]
        return tuple(items) if form.python and isinstance(value, tuple) else items
    if isinstance(value, Enum):
        return value if form.python else value.value
    if isinstance(value, datetime) and not form.python:
        return instant_text(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.tolist() if hasattr(value, "tolist") else value


def dump(
    value: Any,
    mode: str,
    *,
    include: Optional[Collection[str]],
    exclude: Optional[Collection[str]],
    exclude_defaults: bool,
    exclude_none: bool,
) -> Dict[str, Any]:
    """Return the fields of a wire type as ``model_dump`` does; the arguments are its."""
    if mode not in ("python", "json"):
        raise ValueError(f'mode must be "python" or "json", not {mode!r}')

    def leaves_out(field: Any, held: Any) -> bool:
        if held is None and exclude_none:
            return True
        default = _default(field) if exclude_defaults else ...
        return default is not ... and type(default) is type(held) and bool(default == held)

    plain: Dict[str, Any] = _plain(value, _Form(mode == "python", leaves_out))
    return {
        name: held
        for name, held in plain.items()
        if (include is None or name in include) and (exclude is None or name not in exclude)
    }
