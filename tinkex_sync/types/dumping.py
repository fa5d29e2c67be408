"""Wire types as plain dicts: under our name for that, and under pydantic's, which scripts of the official SDK use."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import datetime
from enum import Enum
from typing import Any, Callable, Collection, Dict, NamedTuple, Optional

import orjson

from .scalars import instant_text

__all__ = ["Dumping", "FieldInfo"]


class FieldInfo(NamedTuple):
    """One field of a type, as ``model_fields`` has it."""

    annotation: Any
    #: ``...`` where a value must be given.
    default: Any

    def is_required(self) -> bool:
        """Whether a value must be given."""
        return self.default is ...

    def get_default(self, *, call_default_factory: bool = False) -> Any:
        """What it is if no value is given; None where one must be."""
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
    # What tells "not given" from None is no value.
    return None if repr(field.default) == "None" else field.default


class _Form(NamedTuple):
    """How values are written: those JSON has no word for, and which fields are left out."""

    datetimes: bool
    enums: bool
    tuples: bool
    leaves_out: Callable[[Any, Any], bool]


def _plain(value: Any, form: _Form) -> Any:
    if isinstance(value, Dumping):
        pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))  # type: ignore[arg-type]
        return {
            field.name: _plain(held, form)
            for field, held in pairs
            if not (form.leaves_out(field, held) or (held is None and "later" in field.metadata))
        }
    if isinstance(value, dict):
        return {key: _plain(held, form) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        held_ones = [_plain(held, form) for held in value]
        return tuple(held_ones) if form.tuples and isinstance(value, tuple) else held_ones
    if isinstance(value, Enum):
        return value if form.enums else value.value
    if isinstance(value, datetime) and not form.datetimes:
        return instant_text(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.tolist() if hasattr(value, "tolist") else value


class Dumping:
    """Plain dicts of a dataclass that checks itself."""

    #: Fields by name; of the class and of its instances.
    model_fields = _Fields()

    def to_dict(self, encode_json: bool = False) -> Dict[str, Any]:
        """Every field of 0.7.0, None included, in declared order; later ones if they have a value.

        Datetimes stay unless ``encode_json``.
        """
        form = _Form(not encode_json, False, False, lambda field, held: False)
        plain: Dict[str, Any] = _plain(self, form)
        return plain

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
        """Every field in declared order. Bytes become base64 text.

        Args:
            mode: "python" keeps enums, tuples and datetimes; "json" makes what JSON has.
            include, exclude: Names of fields of this object, not of those inside it.
            by_alias: No field has one.
            exclude_unset: As ``exclude_defaults``: what was given by hand is not remembered.
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

        plain: Dict[str, Any] = _plain(self, _Form(*(mode == "python",) * 3, leaves_out))
        return {
            name: value
            for name, value in plain.items()
            if (include is None or name in include) and (exclude is None or name not in exclude)
        }

    def model_dump_json(self, *, indent: Optional[int] = None, **options: Any) -> str:
        """:meth:`model_dump` as JSON text: compact, or with ``indent`` spaces. NaN and infinities become null."""
        text = orjson.dumps(self.model_dump(mode="json", **options)).decode()
        return text if indent is None else json.dumps(json.loads(text), indent=indent, ensure_ascii=False)
