"""How the calls about stored things are made."""

from __future__ import annotations

from typing import Any, Callable, Dict, Literal, Mapping, Optional, Tuple, Type, TypeVar

from ..http.call_state import CallState
from ..http.request import Request
from .base import RebuildingClient

__all__ = ["AccessScope", "Operation", "RestCalls", "split_tinker_path"]

T = TypeVar("T")
Operation = Callable[[CallState, Optional[float]], T]
#: Whose things are shown: the account's own, or all that it may read.
AccessScope = Literal["owned", "accessible"]

_SCHEME = "tinker://"


def split_tinker_path(tinker_path: str) -> Tuple[str, str]:
    """Run and checkpoint of ``tinker://RUN/weights/NAME``, or of ``tinker://RUN/NAME`` as some servers have it.

    Raises:
        ValueError: it is not such a path.
    """
    run, _, checkpoint = tinker_path[len(_SCHEME) :].partition("/")
    parts = checkpoint.split("/")
    if (
        not tinker_path.startswith(_SCHEME)
        or run in ("", ".", "..")
        or len(parts) > 2
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise ValueError(
            f"invalid checkpoint path {tinker_path!r}: it should look like tinker://RUN/weights/NAME"
        )
    return run, checkpoint


class RestCalls(RebuildingClient):
    """Calls with what stands in their path and query, checked before anything is sent."""

    def _page(
        self, endpoint: str, limit: int, offset: int, reply: Type[T], **asked_for: Optional[str]
    ) -> Operation[T]:
        for name, value in (("limit", limit), ("offset", offset)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be a whole number of at least 0, not {value!r}")
        query = {"limit": limit, "offset": offset, **_query(asked_for)}

        def fetch(call: CallState, deadline: Optional[float]) -> T:
            page: T = self._session.call(Request(endpoint, query=query, call=call, deadline=deadline))
            return page

        return fetch

    def _get(
        self, endpoint: str, parts: Dict[str, str], reply: Type[T], **asked_for: Optional[str]
    ) -> Operation[T]:
        return self._put(endpoint, parts, None, reply, **asked_for)

    def _put(
        self,
        endpoint: str,
        parts: Dict[str, str],
        body: Optional[Mapping[str, Any]],
        reply: Type[T],
        **asked_for: Optional[str],
    ) -> Operation[T]:
        for name, value in parts.items():
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} id must be a text that is not empty, not {value!r}")
        query = _query(asked_for) or None

        def fetch(call: CallState, deadline: Optional[float]) -> T:
            found: T = self._session.call(
                Request(endpoint, body, parts=parts, query=query, call=call, deadline=deadline)
            )
            return found

        return fetch


def _query(asked_for: Mapping[str, Optional[str]]) -> Dict[str, str]:
    """What came after 0.7.0 is sent only when it is asked for."""
    scope = asked_for.get("access_scope")
    if scope not in (None, "owned", "accessible"):
        raise ValueError(f"access_scope must be 'owned' or 'accessible', not {scope!r}")
    project = asked_for.get("project_id")
    if project is not None and (not isinstance(project, str) or not project):
        raise ValueError(f"project_id must be a text that is not empty, or None, not {project!r}")
    return {name: value for name, value in asked_for.items() if value is not None}
