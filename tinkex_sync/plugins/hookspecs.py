"""The hook specifications: one function for each event that a plugin can observe.

To add a hook, add a function named ``tinkex_...`` here; docs/architecture.md lists the other files. Its docstring
has a summary, the thread, the arguments and the version, as those below. These rules hold for every hook:

- A hook is called after the event. Its return value is ignored, and it cannot change what the client does.
- It runs in the thread of the event. It may run in several threads concurrently. No lock of this package is held.
- Its first two arguments are ``source`` and ``call_id``. A plugin declares the arguments that it needs, by name.
- A later version may add arguments. It removes or renames them only in a new major version.
- Durations are in seconds, points in time are seconds on the client's monotonic clock, and sizes are in bytes.
- Arguments contain no credentials and no tokens. Mappings are read-only.

The specifications name threads as follows:

- *caller*: the thread that called the public method.
- *lane*: the daemon thread of one training client that sends its operations in order.
- *worker*: a daemon thread of the client that sends submitted operations or polls for results.
- *heartbeat*: the daemon thread that keeps the session alive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

import pluggy

from .events import Boundary, Source

if TYPE_CHECKING:
    import click

    from ..types import AdamParams

#: Name of the pluggy project, of its markers and of the entry-point group.
PROJECT = "tinkex_sync"
#: Prefix of every hook's name.
PREFIX = "tinkex_"

#: Decorator that marks a function or method as the implementation of the hook with the same name.
hookimpl = pluggy.HookimplMarker(PROJECT)

_hookspec = pluggy.HookspecMarker(PROJECT)


# Session


def tinkex_session_opened(source: Source, call_id: str) -> None:
    """The service client has created its session on the server.

    Thread: the caller's. The requests that opened the session are reported before.

    Args:
        source: The service client; ``session_id`` is the new session.
        call_id: "".

    .. versionadded:: 2026.11.0
    """


def tinkex_session_closed(source: Source, call_id: str) -> None:
    """The service client is closed: it sends no more requests, and every waiting call has failed.

    Thread: a worker if the main thread closes the client. Otherwise the caller's. Once per session.
    ``close()`` of each plugin that has one is called afterwards.

    Args:
        source: The service client.
        call_id: "".

    .. versionadded:: 2026.11.0
    """


def tinkex_heartbeat_missed(
    source: Source, call_id: str, misses: int, silent_for: float, error: Optional[BaseException]
) -> None:
    """A heartbeat failed. If heartbeats keep failing, the server ends the session.

    Thread: the heartbeat thread. Once per failed heartbeat, that is, at most once in 10 s.

    Args:
        source: The service client that owns the session.
        call_id: "".
        misses: Number of consecutive failed heartbeats, this one included.
        silent_for: Seconds since the last successful heartbeat.
        error: Error of this heartbeat.

    .. versionadded:: 2026.11.0
    """


def tinkex_billing_paused(source: Source, call_id: str, waited: float, limit: float, error: BaseException) -> None:
    """The server returned 402; calls are repeated every 5 s until the account has credit.

    Thread: the caller's, a lane or a worker. At the first 402, then at most once in 60 s while the pause lasts.

    Args:
        source: The client whose call received the response.
        call_id: The call that received it; "" for requests of the session.
        waited: Seconds since the first 402.
        limit: Seconds after which waiting calls fail.
        error: The error made from the response.

    .. versionadded:: 2026.11.0
    """


# Calls and requests


def tinkex_call_started(source: Source, call_id: str, operation: str, items: int) -> None:
    """A client method was called. All events of this call have the same ``call_id``.

    Thread: the caller's. Before any request of the call is sent.

    Args:
        source: The client whose method was called.
        call_id: Identifies the call within the process.
        operation: Name of the method, such as "forward_backward", "optim_step" or "sample".
        items: Number of datums of a training call; 1 for other calls.

    .. versionadded:: 2026.11.0
    """


def tinkex_call_finished(
    source: Source,
    call_id: str,
    operation: str,
    items: int,
    outcome: str,
    elapsed: float,
    facts: Mapping[str, Any],
    error: Optional[BaseException],
) -> None:
    """A call ended: its result is there, it failed, or nobody waits for it. Once for every ``tinkex_call_started``.

    Thread: the caller's or a worker. Before the caller has the result. Of a blocking training call whose timeout or
    interrupt ended only the wait, it is reported when the operation itself has ended.

    Args:
        source: The client whose method was called.
        call_id: As in ``tinkex_call_started``.
        operation: Name of the method.
        items: Number of datums of a training call; 1 for other calls.
        outcome: "ok", "error", "timeout" (a deadline), "cancelled" (withdrawn or interrupted) or "closed" (the client
            was closed first).
        elapsed: Seconds since ``tinkex_call_started``.
        facts: Facts about the result, without payloads. Training passes: loss_fn, datums, tokens, metrics, and loss
            if the server returns one. Optimizer steps: metrics, and step (number of the steps of this training client,
            from 1). Samples: prompt_tokens, completion_tokens, stop_reasons (one per completion). Else empty.
        error: The error; None for "ok".

    .. versionadded:: 2026.11.0
    """


def tinkex_client_created(
    source: Source,
    call_id: str,
    operation: str,
    base_model: Optional[str],
    rank: Optional[int],
    model_path: Optional[str],
) -> None:
    """A training, sampling or REST client was made.

    Thread: the caller's or a worker.

    Args:
        source: The new client.
        call_id: The call that made it; "" for a REST client, which needs no call.
        operation: Name of the method that made it.
        base_model: Name of the base model, as far as the client knows it.
        rank: Rank of a new LoRA adapter; None for others.
        model_path: Path of the weights that it samples from or starts from; None for new weights.

    .. versionadded:: 2026.11.0
    """


def tinkex_checkpoint_saved(
    source: Source, call_id: str, path: str, kind: str, ttl_seconds: Optional[int], elapsed: float
) -> None:
    """The server has saved weights under a path.

    Thread: a worker.

    Args:
        source: The training client.
        call_id: The call that saved them.
        path: Path of the checkpoint, ``tinker://...``.
        kind: "training" (weights and optimizer), "sampler" or "external".
        ttl_seconds: Seconds until the server deletes it; None: never.
        elapsed: Seconds since the start of the call.

    .. versionadded:: 2026.11.0
    """


def tinkex_request_finished(
    source: Source,
    call_id: str,
    method: str,
    route: str,
    path: str,
    host: str,
    attempt: int,
    status: Optional[int],
    elapsed: float,
    sent_bytes: int,
    received_bytes: int,
    http_version: Optional[str],
    server_request_id: Optional[str],
    error: Optional[BaseException],
) -> None:
    """One HTTP attempt ended: the response was read, or the attempt failed. Polls are included.

    Thread: the caller's, a lane, a worker or the heartbeat thread: the one that sent the request.

    Args:
        source: The client that sent the request.
        call_id: The call that the request belongs to; "" for requests of the session.
        method: "GET", "POST", "PUT" or "DELETE".
        route: The path with names in braces instead of ids, such as ``/api/v1/samplers/{sampler}``: a bounded set.
        path: Path of the URL, without host and query.
        host: Host and port of the server.
        attempt: Number of the attempt within one request: 1, 2, 3 and so on over its retries.
        status: HTTP status code; None without a response.
        elapsed: Seconds from the start of sending to the last byte received, or to the failure.
        sent_bytes: Size of the request body in bytes.
        received_bytes: Size of the decompressed response body in bytes.
        http_version: "1.1" or "1.0"; None without a response.
        server_request_id: The response's header ``x-request-id``; None without it.
        error: Error of the attempt. None for a 2xx response, and for the status codes with which a server
            reports that it lacks an optional endpoint.

    .. versionadded:: 2026.11.0
    """


def tinkex_retry_scheduled(
    source: Source, call_id: str, policy: str, attempt: int, delay: float, cause: Optional[BaseException]
) -> None:
    """An attempt failed, and the request will be sent again.

    Thread: the caller's, a lane or a worker: the one that waits. Before it waits.

    Args:
        source: The client that sends the request.
        call_id: The call that the request belongs to; "" for requests of the session.
        policy: Name of the retry policy: "short", "optional", "submit", "poll" or "sampling".
        attempt: Number of the failed attempt, from 1.
        delay: Seconds until the next attempt.
        cause: Error of the failed attempt.

    .. versionadded:: 2026.11.0
    """


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
    """Polling of a server future ended, with or without a result.

    Thread: the caller's or a worker: the one that polled. Once per server future, so several times for a batch of
    several chunks.

    Args:
        source: The client that polled.
        call_id: The call that the server future belongs to.
        operation: Name of the method, such as "forward_backward".
        request_id: Id of the server future.
        outcome: "ok"; "timeout" if the deadline of the call passed; "error" in all other cases.
        elapsed: Seconds from the start of the call to the end of polling.
        polls: Number of polls sent.
        error: Error that the call raises; None for "ok".

    .. versionadded:: 2026.11.0
    """


# Training


def tinkex_chunks_planned(
    source: Source, call_id: str, operation: str, boundaries: Sequence[Boundary], limits: Mapping[str, int]
) -> None:
    """A batch was divided into chunks.

    Thread: a lane. Before the first chunk is sent.

    Args:
        source: The training client.
        call_id: The call that the batch belongs to.
        operation: "forward" or "forward_backward".
        boundaries: The chunks in order.
        limits: Limits of one chunk: "items" (datums) and "bytes" (estimated).

    .. versionadded:: 2026.11.0
    """


def tinkex_chunk_sent(
    source: Source, call_id: str, boundary: Boundary, body_bytes: int, request_id: Optional[str], elapsed: float
) -> None:
    """The server accepted one chunk.

    Thread: a lane.

    Args:
        source: The training client.
        call_id: The call that the chunk belongs to.
        boundary: The chunk, as planned.
        body_bytes: Size of the encoded request body in bytes, for comparison with ``boundary.estimated_bytes``.
        request_id: Id of the chunk's server future.
        elapsed: Seconds from the first attempt to acceptance, retries included.

    .. versionadded:: 2026.11.0
    """


def tinkex_adam_params_serialized(
    source: Source, call_id: str, params: AdamParams, payload: Mapping[str, float]
) -> None:
    """The parameters of an optimizer step were encoded.

    Thread: a lane. Before the step is sent.

    Args:
        source: The training client.
        call_id: The call of the step.
        params: The parameters as passed by the caller.
        payload: The parameters as sent: learning_rate, beta1, beta2, eps, weight_decay, grad_clip_norm.

    .. versionadded:: 2026.11.0
    """


# Queue states and throttling


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
    """The queue state of a client changed, or the reason for it. The return to "active" is included.

    Thread: the caller's or a worker: the one that polled, or that sent the refused sample. Once per change.

    Args:
        source: The client that waits.
        call_id: The call that received the state.
        state: "active", "paused_rate_limit", "paused_capacity" or "unknown".
        previous: The previous state; None for the first one.
        reason: Text that explains the state; None for "active".
        reason_source: "server" if the reason is the server's text, "default" if it is a text of this package,
            None without a reason.
        waited: Seconds since the client began to wait. For "active": how long it waited in total.
        request_id: Id of the server future whose poll returned the state; None for a refused sample.

    .. versionadded:: 2026.11.0
    """


def tinkex_queue_state_repeated(
    source: Source,
    call_id: str,
    state: str,
    reason: Optional[str],
    reason_source: Optional[str],
    waited: float,
    request_id: Optional[str],
) -> None:
    """The server returned the queue state and reason that the client already has: the pause continues.

    Thread: the caller's or a worker: the one that polled, or that sent the refused sample. At most once in 60 s per
    client.

    Args:
        source: The client that waits.
        call_id: The call that received the state.
        state: "paused_rate_limit", "paused_capacity" or "unknown".
        reason: The reason as last passed to ``tinkex_queue_state_changed``.
        reason_source: "server" or "default", as for ``tinkex_queue_state_changed``.
        waited: Seconds since the client began to wait.
        request_id: Id of the server future whose poll returned the state; None for a refused sample.

    .. versionadded:: 2026.11.0
    """


def tinkex_dispatch_acquired(
    source: Source,
    call_id: str,
    estimated_bytes: int,
    charged_bytes: int,
    throttled: bool,
    waited: float,
    in_flight: int,
    bytes_left: int,
    waiting: int,
    pace: Optional[float],
) -> None:
    """The throttle admitted a sample; it may be sent.

    Thread: the caller's or a worker: the one that sends the sample.

    Args:
        source: The sampling client.
        call_id: The sample.
        estimated_bytes: Estimated size of the prompt in bytes.
        charged_bytes: Bytes subtracted from the byte budget. Shortly after a backoff they are more than the estimate.
        throttled: True if the limits that hold shortly after a backoff were applied.
        waited: Seconds the sample waited for admission.
        in_flight: Number of samples admitted and not yet released, this one included.
        bytes_left: Remaining byte budget; negative while it is overdrawn.
        waiting: Number of samples that wait at the throttle.
        pace: Samples per second that are sent at most after a 429; None without such a limit.

    .. versionadded:: 2026.11.0
    """


def tinkex_dispatch_released(
    source: Source, call_id: str, in_flight: int, bytes_left: int, waiting: int, pace: Optional[float]
) -> None:
    """A sample returned its permit to the throttle: it was accepted, it failed, or it waits for a retry.

    Thread: the caller's or a worker: the one that acquired the permit. Once after each ``tinkex_dispatch_acquired``.

    Args:
        source: The sampling client.
        call_id: The sample.
        in_flight: Number of samples admitted and not yet released.
        bytes_left: Remaining byte budget; negative while it is overdrawn.
        waiting: Number of samples that wait at the throttle.
        pace: Samples per second that are sent at most after a 429; None without such a limit.

    .. versionadded:: 2026.11.0
    """


def tinkex_backoff_started(source: Source, call_id: str, duration: float, until: float, everyone: bool) -> None:
    """The server refused a sample with 429.

    Thread: the caller's or a worker: the one that sent the sample.

    Args:
        source: The sampling client.
        call_id: The refused sample.
        duration: Seconds until the sample is sent again.
        until: Time of the next attempt on the client's monotonic clock.
        everyone: True if all samples of the service client wait, False if only this one waits.

    .. versionadded:: 2026.11.0
    """


# Command line


def tinkex_register_commands(cli: click.Group) -> None:
    """The command line is being built. Add commands with ``cli.add_command``.

    Thread: the main thread of the ``tinkex-sync`` process. Not an event, so it has no source.

    Args:
        cli: The group of all commands.

    .. versionadded:: 2026.11.0
    """


#: The specification of each hook by its full name, in the order of this module: every function whose name begins with
#: the prefix. The marker has no options, so no specification is ``firstresult`` or historic.
SPECS: Dict[str, Callable[..., None]] = {
    name: _hookspec(value) for name, value in globals().items() if name.startswith(PREFIX)
}


def argument_names(hook: str) -> Tuple[str, ...]:
    """Return the names of a hook's arguments in order.

    Args:
        hook: Full name of the hook, with the prefix.
    """
    code = SPECS[hook].__code__
    return code.co_varnames[: code.co_argcount]
