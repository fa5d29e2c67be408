"""Wire types as plain dicts, under the names that pydantic gave the methods of the official SDK's models."""

from __future__ import annotations

import base64
import dataclasses
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from .decoders import instant_text


class _NotGiven:
    def __repr__(self) -> str:
        return "None"


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


def default_of(field: Any) -> Any:
    """Return the default value of a dataclass field; ``...`` if a value is required."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    if field.default is dataclasses.MISSING:
        return ...
    return None if field.default is NOT_GIVEN else field.default


class Form(NamedTuple):
    """How a dump writes values that JSON cannot express, and which fields it leaves out."""

    python: bool
    exclude_defaults: bool
    exclude_none: bool

    def leaves_out(self, field: Any, value: Any) -> bool:
        """Return whether a field with this value is left out."""
        if value is None and (self.exclude_none or "since" in field.metadata):
            return True
        default = default_of(field) if self.exclude_defaults else ...
        return type(default) is type(value) and bool(default == value)


def plain(value: Any, form: Form) -> Any:
    """Return a value with wire types as dicts and arrays as lists, at every depth."""
    if dataclasses.is_dataclass(value):
        held = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: plain(one, form) for field, one in held if not form.leaves_out(field, one)}
    if isinstance(value, dict):
        return {key: plain(one, form) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(one, form) for one in value]
        return tuple(items) if form.python and isinstance(value, tuple) else items
    if isinstance(value, Enum):
        return value if form.python else value.value
    if isinstance(value, datetime) and not form.python:
        return instant_text(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.tolist() if hasattr(value, "tolist") else value
