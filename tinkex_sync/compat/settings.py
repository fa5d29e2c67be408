"""Conversion of the official ServiceClient's arguments to settings of tinkex_sync."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, TypedDict, Union

__all__ = ["NOT_GIVEN", "NotGiven", "Omit", "RequestOptions", "Timeout", "service_arguments"]

#: A week in seconds, for "no limit" in settings that must be numbers.
_NO_LIMIT = 7 * 86400.0


class NotGiven:
    """The default of arguments for which None is a value."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"


class Omit:
    """A value in ``default_headers``: do not send this header."""

    def __bool__(self) -> bool:
        return False


NOT_GIVEN = NotGiven()


class Timeout:
    """Limits of one HTTP request in seconds; None means no limit.

    Args:
        timeout: The limit of each of the four phases that has no argument of its own.
    """

    def __init__(
        self,
        timeout: Any = NOT_GIVEN,
        *,
        connect: Union[None, float, NotGiven] = NOT_GIVEN,
        read: Union[None, float, NotGiven] = NOT_GIVEN,
        write: Union[None, float, NotGiven] = NOT_GIVEN,
        pool: Union[None, float, NotGiven] = NOT_GIVEN,
    ) -> None:
        given = {"connect": connect, "read": read, "write": write, "pool": pool}
        if isinstance(timeout, NotGiven) and any(isinstance(value, NotGiven) for value in given.values()):
            raise ValueError("Timeout needs timeout, or all of connect, read, write and pool")
        limits: Dict[str, Optional[float]] = {}
        for name, value in given.items():
            common = getattr(timeout, name) if isinstance(timeout, Timeout) else timeout
            limits[name] = common if isinstance(value, NotGiven) else value
        self.connect = limits["connect"]
        self.read = limits["read"]
        self.write = limits["write"]
        self.pool = limits["pool"]

    def as_dict(self) -> Dict[str, Optional[float]]:
        """Return the four limits by name."""
        return dict(vars(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timeout) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"Timeout({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


class RequestOptions(TypedDict, total=False):
    """Options of one request of the official low-level client, for type annotations in scripts."""

    headers: Mapping[str, str]
    max_retries: int
    timeout: Any
    params: Mapping[str, object]
    extra_json: Mapping[str, object]
    idempotency_key: str
    follow_redirects: bool


def _timeouts(value: Any) -> Dict[str, float]:
    if value is None or isinstance(value, (int, float)):
        value = Timeout(value)
    if not hasattr(value, "connect") or not hasattr(value, "read"):
        raise TypeError(f"timeout must be a number of seconds, a Timeout or None, not {value!r}")
    write = getattr(value, "write", None)
    if write is not None and (value.read is None or write < value.read):
        raise ValueError(
            f"timeout: a write limit ({write!r}) below the read limit ({value.read!r}) is not supported;"
            " pass the same value for both"
        )
    return {
        "connect_timeout": _NO_LIMIT if value.connect is None else value.connect,
        "read_timeout": _NO_LIMIT if value.read is None else value.read,
    }


def service_arguments(given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return arguments for ``tinkex_sync.ServiceClient``. Arguments of its own, such as ``plugins``, are kept.

    Raises:
        TypeError, ValueError: An argument is invalid or not supported; the message contains its name.
    """
    left = {name: value for name, value in given.items() if not isinstance(value, NotGiven)}
    arguments: Dict[str, Any] = {}
    if "timeout" in left:
        arguments.update(_timeouts(left.pop("timeout")))
    headers = left.pop("default_headers", None)
    if headers:
        for name, value in headers.items():
            if not isinstance(value, (str, bytes)):
                raise TypeError(f"default_headers[{name!r}] must be text, not {value!r}")
        arguments["headers"] = dict(headers)
    query = left.pop("default_query", None)
    if query:
        arguments["default_query"] = dict(query)
    if left.pop("http_client", None) is not None:
        raise TypeError(
            "http_client is not supported, because this package uses requests: pass session_factory=, a function that"
            " returns a requests.Session"
        )
    if left.get("base_url") is not None:
        left["base_url"] = str(left["base_url"])
    return {**arguments, **left}
