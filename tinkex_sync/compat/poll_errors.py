"""Errors of failed polls that are also ValueErrors, which the official SDK raises for them."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Type

from ..errors import APIError, APIResponseValidationError, APIStatusError

__all__ = ["as_value_error"]


def as_value_error(error: Optional[BaseException]) -> None:
    """Make the error of a response to a poll an instance of ValueError also; leave other errors unchanged."""
    if not isinstance(error, (APIStatusError, APIResponseValidationError)) or error.polled is None:
        return
    if not isinstance(error, ValueError):
        object.__setattr__(error, "__class__", _value_error_class(type(error)))


#: The classes made so far, by the class that they extend.
_classes: Dict[Type[APIError], Type[APIError]] = {}


def _value_error_class(cls: Type[APIError]) -> Type[APIError]:
    def reduce(self: APIError) -> Tuple[Any, ...]:
        return _new, (cls,), {**self.__dict__, "args": self.args}

    names = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__reduce__": reduce}
    # One operation, so that two threads get one class.
    return _classes.setdefault(cls, type(cls.__name__, (cls, ValueError), names))


def _new(cls: Type[APIError]) -> APIError:
    # Unpickles an error.
    made = _value_error_class(cls)
    return made.__new__(made)
