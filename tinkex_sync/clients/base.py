"""What all clients have in common: running an operation in the caller's thread, or submitting it."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, TypeVar

from ..errors import ClosedError
from ..futures import Future
from ..http.call_state import CallState
from ..plugins.hookspecs import Source
from ..session import Session
from ..telemetry import Telemetry
from .rebuilding import Recipe, one_rebuilds, rebuilt_session

__all__ = ["Client", "RebuildingClient", "settle"]

T = TypeVar("T")

#: An operation: given its open call and its deadline, it returns the result.
Operation = Callable[[CallState, Optional[float]], T]


class Client:
    """One of the clients that share a session."""

    def __init__(self, session: Session, source: Source) -> None:
        self._own_session: Optional[Session] = session
        self._source = source

    @property
    def _session(self) -> Session:
        assert self._own_session is not None
        return self._own_session

    def get_telemetry(self) -> Optional[Telemetry]:
        """Return the plugin that reports failures to the server, for events of your own.

        Returns:
            None while telemetry is off, and in a process that received this client by a fork or a pickle.
        """
        session = self._own_session
        telemetry = None if session is None or session.forked else session.telemetry
        return telemetry if isinstance(telemetry, Telemetry) else None

    def _run(self, operation: str, function: Operation[T], timeout: Optional[float], items: int = 1) -> T:
        """Run an operation in this thread."""
        session = self._session
        deadline = session.deadline(timeout)
        with session.calling(self._source, operation, items) as call:
            return function(call, deadline)

    def _submit(self, operation: str, function: Operation[T], timeout: Optional[float] = None) -> Future[T]:
        """Run an operation in a worker; never waits."""
        session = self._session
        deadline = session.deadline(timeout)
        call = session.begin(self._source, operation)
        future: Future[T] = Future(call)

        def job() -> None:
            if not future.begin():
                session.end(call)
                return
            try:
                result = function(call, deadline)
            except BaseException as error:
                session.end(call)
                future.set_exception(error)
            else:
                session.end(call)
                future.set_result(result)

        if not session.helpers.submit(job):
            session.end(call)
            future.set_exception(ClosedError("the client is closed"))
        return future


class RebuildingClient(Client):
    """A client that needs no more than its session's id, so that it outlives a fork and a pickle.

    In another process it makes its own connections at first use.
    """

    def __init__(self, session: Session, source: Source) -> None:
        super().__init__(session, source)
        self._recipe = Recipe(session.config, session.session_id, session.negotiation.negotiated)

    @property
    def _session(self) -> Session:
        session = self._own_session
        if session is None or session.forked:
            session = rebuilt_session(self._recipe)
            with one_rebuilds():
                # Two threads may come here at once, and what belongs to the session is made once.
                if self._own_session is not session:
                    # First, so that no other thread sees the session without it.
                    self._rebuilt(session)
                    self._own_session = session
        return session

    def _rebuilt(self, session: Session) -> None:
        """Called in a new process, before anything else is done there."""

    def __getstate__(self) -> Dict[str, Any]:
        return {"recipe": self._recipe.for_pickle(), "source": self._source}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._own_session = None
        self._recipe, self._source = state["recipe"], state["source"]


def settle(
    session: Session, future: Future[Any], result: Any = None, error: Optional[BaseException] = None
) -> None:
    """Resolve a future from a thread that must not run the caller's callbacks, which may block."""

    def resolve() -> None:
        session.end(future.call)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    # Once closed there are no workers; then the thread that is left does it.
    if not session.helpers.submit(resolve):
        resolve()
