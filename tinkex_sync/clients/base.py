"""The base of all clients: the two forms of an operation, and clients that continue in another process."""

from __future__ import annotations

import functools
import inspect
import os
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, ForwardRef, Generic, Optional, Tuple, TypeVar

from ..concurrency.primitives import ModuleLock
from ..config import Config
from ..errors import ClosedError, ConfigError
from ..futures import Future, Operation
from ..heartbeat import start_heartbeat
from ..http.call_state import CallState
from ..http.request import Request
from ..plugins.events import Source
from ..plugins.queue_log import QueueLog
from ..plugins.registry import Observers
from ..protocol.negotiation import Negotiated
from ..session import Session
from ..telemetry import Telemetry

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")


T = TypeVar("T")


# The two forms of an operation


def blocking(method: Callable[P, Operation[T]]) -> Callable[P, T]:
    """Turn a method that returns an operation into one that runs it and returns its result.

    The method validates its arguments and makes the operation. It has a keyword argument ``timeout``, which this
    decorator reads. Its return annotation is ``Operation[X]``; the signature of the result has ``X``.
    """

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        timeout: Any = kwargs.get("timeout")
        return method(*args, **kwargs).run(timeout)

    _set_return_annotation(run, _result_of(method))
    return run


def submitted(method: Callable[P, T]) -> Callable[P, Future[T]]:
    """Derive the ``submit_*`` form of a :func:`blocking` method: it starts the operation and returns its future.

    The arguments are validated in the caller's thread, as in the blocking form.
    """
    operation_of: Callable[P, Operation[T]] = inspect.unwrap(method)

    @functools.wraps(operation_of)
    def submit(*args: P.args, **kwargs: P.kwargs) -> Future[T]:
        timeout: Any = kwargs.get("timeout")
        return operation_of(*args, **kwargs).submit(timeout)

    name = operation_of.__name__
    submit.__name__ = f"submit_{name}"
    submit.__qualname__ = operation_of.__qualname__.replace(name, submit.__name__)
    submit.__doc__ = (
        f"Start :meth:`{name}` and return its future without waiting.\n\n{inspect.getdoc(operation_of) or ''}"
    )
    _set_return_annotation(submit, _result_of(operation_of), of_future=True)
    return submit


def _result_of(method: Callable[..., Any]) -> str:
    """Return ``X`` of a method annotated with ``Operation[X]``."""
    annotation = str(method.__annotations__.get("return", ""))
    if not (annotation.startswith("Operation[") and annotation.endswith("]")):
        raise TypeError(f"{method.__qualname__} must be annotated with Operation[...], got {annotation!r}")
    return annotation[len("Operation[") : -1]


def _set_return_annotation(function: Any, result: str, *, of_future: bool = False) -> None:
    signature = inspect.signature(function)
    shown = f"Future[{result}]" if of_future else result
    function.__signature__ = signature.replace(return_annotation=shown)
    # typing.get_type_hints evaluates names in the client's module, which need not import Future.
    evaluated = Future[ForwardRef(result)] if of_future else result  # type: ignore[misc]
    function.__annotations__ = {**function.__annotations__, "return": evaluated}


class CallOperation(Generic[T]):
    """An operation that is a function of one call: run in the caller's thread, or in a worker.

    Every run and every submission is a call of its own. Immutable.
    """

    def __init__(self, client: Client, name: str, function: Callable[[CallState, Optional[float]], T]) -> None:
        """Make an operation.

        Args:
            client: The client whose session and source the call has.
            name: The operation's name for observers, errors and ``ServiceClient.status()``.
            function: Returns the result, given the call's state and its deadline (time of the client's clock, or
                None).
        """
        self._client = client
        self._name = name
        self._function = function

    def run(self, timeout: Optional[float] = None) -> T:
        """Run it in this thread and return its result; ``timeout`` is in seconds, default ``Config.timeout``."""
        session = self._client.session
        deadline = session.deadline(timeout)
        with session.calling(self._client.source, self._name) as call:
            return self._function(call, deadline)

    def submit(self, timeout: Optional[float] = None) -> Future[T]:
        """Run it in a worker and return its future; never waits."""
        session = self._client.session
        deadline = session.deadline(timeout)
        call = session.begin(self._client.source, self._name)
        future: Future[T] = Future(session, call)

        def resolve() -> None:
            if future.begin():
                future.resolve_by(lambda: self._function(call, deadline))

        try:
            is_queued = session.helpers.submit(resolve)
        except BaseException:
            future.abandon()
            raise
        if not is_queued:
            future.set_exception(ClosedError("the client is closed"))
        return future


def request_operation(
    client: Client, name: str, request: Request, decode: Optional[Callable[[Any], Any]] = None
) -> CallOperation[Any]:
    """Return the operation that sends one request.

    Args:
        client: The client whose session and source the call has.
        name: The operation's name.
        request: The request; its ``call`` and ``deadline`` are set when it is sent.
        decode: Makes the result of the decoded response; None: the result is the decoded response.
    """

    def send(call: CallState, deadline: Optional[float]) -> Any:
        response = client.session.call(replace(request, call=call, deadline=deadline))
        return response if decode is None else decode(response)

    return CallOperation(client, name, send)


# Clients


class Client:
    """A client that belongs to a server session. Thread-safe."""

    def __init__(self, session: Session, source: Source) -> None:
        self._own_session: Optional[Session] = session
        #: Identifies this client to observers.
        self.source = source

    @property
    def session(self) -> Session:
        """The session that this client shares with the other clients of its service client."""
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


class RebuildingClient(Client):
    """A client that needs only the id of its session, so that it continues in a forked or unpickling process.

    In the other process it joins the session with connections of its own at its first request.
    """

    def __init__(self, session: Session, source: Source) -> None:
        super().__init__(session, source)
        self._origin = _Origin(session.config, session.session_id, session.negotiation.negotiated)

    @property
    def session(self) -> Session:
        """The session of this process; joined first if this client came from another process."""
        session = self._own_session
        if session is None or session.forked:
            session = _join_session(self._origin)
            with _rebuilding:
                # Two threads may get here concurrently, and _on_rebuilt must run once for each session.
                if self._own_session is not session:
                    # Before the assignment, so that no other thread uses the session without its state.
                    self._on_rebuilt(session)
                    self._own_session = session
        return session

    def _on_rebuilt(self, session: Session) -> None:
        """Make the state that belongs to a new session. Called in a new process, before the first request."""

    def __getstate__(self) -> Dict[str, Any]:
        return {"origin": self._origin.for_pickle(), "source": self.source}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self._own_session = None
        self._origin, self.source = state["origin"], state["source"]


# Sessions of other processes


@dataclass(frozen=True)
class _Origin:
    """The facts that another process needs to join a session."""

    config: Config
    session_id: str
    #: The negotiated protocol, so that the other process does not negotiate it again.
    negotiated: Negotiated

    def for_pickle(self) -> _Origin:
        """Return a copy without credentials, unless ``Config.pickle_credentials`` is set."""
        return replace(self, config=self.config.for_pickle())


_rebuilding = ModuleLock()
#: Kept while no client uses them, because pool workers unpickle a client again for every task.
_rebuilt: Dict[Tuple[str, str, Optional[str]], Session] = {}  # guarded by _rebuilding
_MOST_REBUILT = 8


def _after_fork() -> None:
    _rebuilt.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _join_session(origin: _Origin) -> Session:
    """Return this process's session object for a session of another process; all clients of it share one.

    It creates nothing on the server, sends heartbeats for the session, and loads plugins by entry point only.

    Raises:
        ConfigError: neither the origin nor the environment contains credentials.
    """
    config = origin.config
    if config.api_key is None and config.credential_command is None:
        config = config.with_credentials_from_env()
    if config.api_key is None and config.credential_command is None:
        raise ConfigError(
            "this client came from another process without its API key: set TINKER_API_KEY here, or make the"
            " client with Config(pickle_credentials=True)"
        )
    key = (config.base_url, origin.session_id, config.api_key)
    with _rebuilding:
        session = _rebuilt.pop(key, None)
        if session is None or session.closing.is_set():
            log = QueueLog(config.clock)
            observers = Observers(builtin=(log,), clock=config.clock, hook_timeout=config.hook_timeout)
            session = Session(config, observers, owned=False)
            session.restore(origin.negotiated)
            session.join(origin.session_id)
            start_heartbeat(session)
        _rebuilt[key] = session
        while len(_rebuilt) > _MOST_REBUILT:
            # The clients that use a session keep it alive. The oldest sessions are removed first.
            del _rebuilt[next(iter(_rebuilt))]
        return session


def close_rebuilt_sessions() -> None:
    """Close the sessions that this process has joined for unpickled or forked clients."""
    with _rebuilding:
        sessions = list(_rebuilt.values())
        _rebuilt.clear()
    for session in sessions:
        session.close(None)


def first_seq_id() -> int:
    """Return the first ``seq_id`` of a rebuilt sampler: no two processes may repeat a number of one session."""
    # Not the shared generator: a forked child would continue its parent's series.
    return random.SystemRandom().randrange(2**32) * 2**20
