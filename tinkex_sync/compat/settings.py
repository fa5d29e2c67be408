"""Arguments of the official ServiceClient, put into settings of ours."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, TypedDict, Union

__all__ = ["NOT_GIVEN", "NotGiven", "Omit", "RequestOptions", "Timeout", "settings"]

#: Stands in for "no limit" where a setting must be a number: a week, in seconds.
_NO_LIMIT = 7 * 86400.0


class NotGiven:
    """An argument that was not given, where None means something."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_GIVEN"


class Omit:
    """In ``default_headers``: leave this header out."""

    def __bool__(self) -> bool:
        return False


NOT_GIVEN = NotGiven()


class Timeout:
    """Limits of one HTTP request in seconds; None means no limit.

    Args:
        timeout: For all four, where they are not given.
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
            raise ValueError("Timeout needs a value for all, or all of connect, read, write and pool")
        limits: Dict[str, Optional[float]] = {}
        for name, value in given.items():
            common = getattr(timeout, name) if isinstance(timeout, Timeout) else timeout
            limits[name] = common if isinstance(value, NotGiven) else value
        self.connect = limits["connect"]
        self.read = limits["read"]
        self.write = limits["write"]
        self.pool = limits["pool"]

    def as_dict(self) -> Dict[str, Optional[float]]:
        """The four limits by name."""
        return dict(vars(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Timeout) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __repr__(self) -> str:
        return f"Timeout({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


class RequestOptions(TypedDict, total=False):
    """Options of a single request of the official low-level client; only its name is needed here."""

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
            f"timeout: a write limit ({write!r}) below the read limit ({value.read!r}) cannot be kept;"
            " give both the same"
        )
    return {
        "connect_timeout": _NO_LIMIT if value.connect is None else value.connect,
        "read_timeout": _NO_LIMIT if value.read is None else value.read,
    }


def settings(given: Mapping[str, Any]) -> Dict[str, Any]:
    """Arguments for our ServiceClient; what is not known here (``plugins``, settings) passes through.

    Raises:
        TypeError, ValueError: an argument that cannot be honoured; the text names it.
    """
    left = {name: value for name, value in given.items() if not isinstance(value, NotGiven)}
    made: Dict[str, Any] = {}
    if "timeout" in left:
        made.update(_timeouts(left.pop("timeout")))
    headers = left.pop("default_headers", None)
    if headers:
        for name, value in headers.items():
            if not isinstance(value, (str, bytes)):
                raise TypeError(f"default_headers[{name!r}] must be text, not {value!r}")
        made["headers"] = dict(headers)
    query = left.pop("default_query", None)
    if query:
        made["default_query"] = dict(query)
    if left.pop("http_client", None) is not None:
        raise TypeError(
            "http_client cannot be honoured, since requests is used: give session_factory=, a function that makes a"
            " requests.Session"
        )
    if left.get("base_url") is not None:
        left["base_url"] = str(left["base_url"])
    return {**made, **left}
