"""The hooks: what a plugin may observe, one function a hook.

A hook is added by adding a function here and its name to ``plugins.Observers``. Rules for all of them:

- They are told after the fact. The return value is ignored; nothing a hook does changes what the client does.
- They run in the thread in which it happened, several threads at once, and no lock of this package is held.
- The first two arguments are ``source`` and ``call_id``; a plugin takes any subset of the arguments, by name.
- Arguments may be added in a later version, never removed or renamed before a major one.
- Durations are seconds, points in time seconds on the client's monotonic clock, sizes bytes. Nothing carries
  credentials or tokens, and mappings are read-only.
``hookimpl`` marks an implementation: ``from tinkex_sync import hookimpl``.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, TypeVar

import pluggy

from .events import Boundary, Source

if TYPE_CHECKING:
    import click

    from ..types import AdamParams

__all__ = ["PREFIX", "PROJECT", "SPECS", "Boundary", "Source", "argument_names", "hookimpl", "hookspec"]

#: Name of the pluggy project, of its markers and of the entry-point group.
PROJECT = "tinkex_sync"
#: Every hook starts with this.
PREFIX = "tinkex_"

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Marks a function or method as the implementation of the hook it is named after.
hookimpl = pluggy.HookimplMarker(PROJECT)

_marker = pluggy.HookspecMarker(PROJECT)


def hookspec(function: _Function) -> _Function:
    """Mark a function as a specification; the one place that does, so that none can be ``firstresult``."""
    return _marker(function)


# Life of a client


@hookspec
def tinkex_session_opened(source: Source, call_id: str) -> None:
    """A service client has made its session on the server.

    Thread: the one that made the client. Nothing but the opening requests
    themselves comes before it.

    :param source: The service client; ``session_id`` is the new session.
    :param call_id: "".

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_session_closed(source: Source, call_id: str) -> None:
    """A service client is closed: nothing more is sent, and those who waited have been told.

    Thread: the one that closed it. Once per session; then ``close()`` of each plugin
    that has one is called.

    :param source: The service client.
    :param call_id: "".

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_heartbeat_missed(
    source: Source, call_id: str, misses: int, silent_for: float, error: Optional[BaseException]
) -> None:
    """A heartbeat was not answered, or was refused; the session ends on the server if that goes on.

    Thread: the heartbeat's. Once for each beat that failed, so at most once in 10 s.

    :param source: The service client whose session it is.
    :param call_id: "".
    :param misses: Beats missed in a row, this one included.
    :param silent_for: Seconds since the last beat that was answered.
    :param error: What this beat failed with.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_billing_paused(
    source: Source, call_id: str, waited: float, limit: float, error: BaseException
) -> None:
    """The server refuses calls until the account is topped up (402); they ask again each 5 s.

    Thread: that of a refused call. At the first refusal, then at most once in 60 s while it lasts.

    :param source: The client whose call it is.
    :param call_id: The refused call, or "".
    :param waited: Seconds since the first refusal.
    :param limit: After so many seconds calls fail.
    :param error: The refusal.

    .. versionadded:: 0.7.0
    """


# One call


@hookspec
def tinkex_call_started(source: Source, call_id: str, operation: str, items: int) -> None:
    """An operation was asked for; what belongs to it carries the same ``call_id``.

    Thread: the caller's. Before anything of it is sent.

    :param source: The client it was asked of.
    :param call_id: Identifies this call within the process.
    :param operation: The method's name, such as "forward_backward", "optim_step" or "sample".
    :param items: Datums of a training call, otherwise 1.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_request_finished(
    source: Source,
    call_id: str,
    method: str,
    path: str,
    attempt: int,
    status: Optional[int],
    elapsed: float,
    sent_bytes: int,
    received_bytes: int,
    error: Optional[BaseException],
) -> None:
    """One HTTP attempt ended: the answer was read, or there is none. Polls count too.

    Thread: the one that sent it: the caller's, a training lane, a worker or the heartbeat.

    :param source: The client it was sent for.
    :param call_id: The call it belongs to; "" for requests of the session itself.
    :param method: "GET", "POST", "PUT" or "DELETE".
    :param path: Path without host and query.
    :param attempt: 1 for the first send.
    :param status: HTTP status, None where there was no answer.
    :param elapsed: Seconds from send to the last byte, or to the failure.
    :param sent_bytes: Bytes of the request's body.
    :param received_bytes: Bytes of the answer's body, decompressed.
    :param error: What the attempt failed with; None for 2xx, and where a server lacks what not every server has.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_retry_scheduled(
    source: Source, call_id: str, policy: str, attempt: int, delay: float, cause: Optional[BaseException]
) -> None:
    """An attempt failed and will be made again.

    Thread: the one that will wait. Before it waits.

    :param source: The client it is retried for.
    :param call_id: The call it belongs to; "" for requests of the session itself.
    :param policy: Name of the retry policy: "short", "submit", "poll", "sampling" or "telemetry".
    :param attempt: Number of the attempt that failed, from 1.
    :param delay: Seconds until the next.
    :param cause: What it failed with.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_future_resolved(
    source: Source,
    call_id: str,
    operation: str,
    request_id: Optional[str],
    outcome: str,
    elapsed: float,
    polls: int,
    error: Optional[BaseException],
) -> None:
    """A result of the server was fetched, or will never be.

    Thread: the one that polled, or that gave up. Once per promise; a batch in several chunks has several.

    :param source: The client it was awaited for.
    :param call_id: The call it belongs to.
    :param operation: The method's name, such as "forward_backward".
    :param request_id: The server's id of the promise, None if it never gave one.
    :param outcome: "ok", "error", "cancelled" or "timeout".
    :param elapsed: Seconds from submission to the end.
    :param polls: How many polls were answered.
    :param error: What it failed with; None for "ok".

    .. versionadded:: 0.7.0
    """


# Training


@hookspec
def tinkex_chunks_planned(
    source: Source,
    call_id: str,
    operation: str,
    boundaries: Sequence[Boundary],
    limits: Mapping[str, int],
) -> None:
    """A batch was divided into chunks.

    Thread: the one that dispatches, before the first chunk is sent.

    :param source: The training client.
    :param call_id: The call the batch belongs to.
    :param operation: "forward" or "forward_backward".
    :param boundaries: The chunks in order, as tuples (index, start, stop, estimated_bytes).
    :param limits: What a chunk may hold: "items" (datums) and "bytes" (estimated).

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_chunk_sent(
    source: Source,
    call_id: str,
    boundary: Boundary,
    body_bytes: int,
    request_id: Optional[str],
    elapsed: float,
) -> None:
    """The server accepted one chunk.

    Thread: the training client's lane.

    :param source: The training client.
    :param call_id: The call the chunk belongs to.
    :param boundary: The chunk, as planned.
    :param body_bytes: Bytes of the encoded body, to hold against ``boundary.estimated_bytes``.
    :param request_id: The server's id of the chunk's promise.
    :param elapsed: Seconds from the first send to acceptance, retries included.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_adam_params_serialized(
    source: Source, call_id: str, params: AdamParams, payload: Mapping[str, float]
) -> None:
    """An optimizer step's parameters were encoded.

    Thread: the one that encodes, before the step is sent.

    :param source: The training client.
    :param call_id: The call of the step.
    :param params: As the caller gave them.
    :param payload: As they go out: learning_rate, beta1, beta2, eps, weight_decay, grad_clip_norm.

    .. versionadded:: 0.7.0
    """


# Waiting


@hookspec
def tinkex_queue_state_changed(
    source: Source,
    call_id: str,
    state: str,
    previous: Optional[str],
    reason: Optional[str],
    reason_source: Optional[str],
    waited: float,
    request_id: Optional[str],
) -> None:
    """The server reported another queue state, or another reason for it; the return to "active" included.

    Thread: the one that polled, or that sent the refused sample. Once per change.

    :param source: The client that waits.
    :param call_id: The call that was told.
    :param state: "active", "paused_rate_limit", "paused_capacity" or "unknown".
    :param previous: The state before, None if this is the first.
    :param reason: Why, for people to read; None for "active" or where nobody gave one.
    :param reason_source: "server" if the text is the server's, "default" if it is ours, None without one.
    :param waited: Seconds since the client began to wait; at the return to "active" how long that was in all.
    :param request_id: The promise whose poll told it, None for a refused sample.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_queue_state_repeated(
    source: Source,
    call_id: str,
    state: str,
    reason: Optional[str],
    reason_source: Optional[str],
    waited: float,
    request_id: Optional[str],
) -> None:
    """The server returned a queue state and reason that the client already has: the pause continues.

    Thread: the one that polled, or that sent the refused sample. At most once in 60 s for each client.

    :param source: The client that waits.
    :param call_id: The call that received the state.
    :param state: "paused_rate_limit", "paused_capacity" or "unknown".
    :param reason: The reason as last passed to ``tinkex_queue_state_changed``.
    :param reason_source: "server" if the reason is the server's text, "default" if it is the client's.
    :param waited: Seconds since the client began to wait.
    :param request_id: Id of the server future whose poll returned the state; None for a refused sample.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_dispatch_acquired(
    source: Source,
    call_id: str,
    estimated_bytes: int,
    charged_bytes: int,
    throttled: bool,
    waited: float,
    in_flight: int,
    bytes_left: int,
) -> None:
    """A sample was admitted by the throttle and may be sent.

    Thread: the one that sends it.

    :param source: The sampling client.
    :param call_id: The sample.
    :param estimated_bytes: Estimated size of the prompt in bytes.
    :param charged_bytes: What it took from the byte budget: more than the estimate shortly after a backoff.
    :param throttled: True if the limits were those that hold shortly after a backoff.
    :param waited: Seconds it waited to be admitted.
    :param in_flight: Samples admitted and not yet released, this one included.
    :param bytes_left: The byte budget that is left; negative while it is overdrawn.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_dispatch_released(source: Source, call_id: str) -> None:
    """A sample gave its place in the throttle back: it was accepted, failed, or waits for a retry.

    Thread: the one that acquired it. Once after each ``tinkex_dispatch_acquired``.

    :param source: The sampling client.
    :param call_id: The sample.

    .. versionadded:: 0.7.0
    """


@hookspec
def tinkex_backoff_started(
    source: Source, call_id: str, duration: float, until: float, everyone: bool
) -> None:
    """The server refused a sample with 429.

    Thread: the one that sent it.

    :param source: The sampling client.
    :param call_id: The refused sample.
    :param duration: Seconds until it is sent again.
    :param until: When that is, on the client's monotonic clock.
    :param everyone: True if all samples of the service client wait, False if only this one does.

    .. versionadded:: 0.7.0
    """


# Set-up


@hookspec
def tinkex_register_commands(cli: click.Group) -> None:
    """The command line is being put together: add commands with ``cli.add_command``.

    Thread: the main one, in the ``tinkex-sync`` process only. Not an event: it has no source.

    :param cli: The group of all commands.

    .. versionadded:: 0.7.0
    """


#: The specification of each hook by its full name, in the order of this file.
SPECS: Dict[str, Callable[..., None]] = {
    name: value
    for name, value in vars(sys.modules[__name__]).items()
    if name.startswith(PREFIX) and inspect.isfunction(value)
}


def argument_names(hook: str) -> Tuple[str, ...]:
    """Names of the arguments of ``hook`` (its full name), in order."""
    code = SPECS[hook].__code__
    return code.co_varnames[: code.co_argcount]
