"""Wire types as plain dicts, under the names that pydantic gave the methods of the official SDK's models."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import datetime
from enum import Enum
from typing import Any, Callable, Collection, Dict, NamedTuple, Optional

import orjson

from .decoders import instant_text

__all__ = ["NOT_GIVEN", "Dumping", "FieldInfo"]


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


class _Fields:
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
    if isinstance(value, Dumping):
        pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))  # type: ignore[arg-type]
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


class Dumping:
    """The dumping methods of wire types."""

    #: Fields by name, of the class and of its instances.
    model_fields = _Fields()

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
        no_defaults = exclude_defaults or exclude_unset

        def leaves_out(field: Any, held: Any) -> bool:
            if held is None and exclude_none:
                return True
            default = _default(field) if no_defaults else ...
            return default is not ... and type(default) is type(held) and bool(default == held)

        plain: Dict[str, Any] = _plain(self, _Form(mode == "python", leaves_out))
        return {
            name: value
            for name, value in plain.items()
            if (include is None or name in include) and (exclude is None or name not in exclude)
        }

    def model_dump_json(self, *, indent: Optional[int] = None, **options: Any) -> str:
        """Return :meth:`model_dump` as JSON text, compact or indented; NaN and infinities become null."""
        text = orjson.dumps(self.model_dump(mode="json", **options)).decode()
        return text if indent is None else json.dumps(json.loads(text), indent=indent, ensure_ascii=False)
