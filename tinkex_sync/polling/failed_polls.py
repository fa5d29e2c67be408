"""What the client does after a poll that failed with an HTTP status: one table for both kinds of polls.

A poll of one server future (``retrieve_future``) also returns the failure of the operation. A bulk poll
(``retrieve_futures``) only returns failures of the poll itself.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Optional, Tuple

from ..errors import APIError
from ..http.retry import is_from_intermediary, is_transient

#: A gateway that ends a poll after at least this many seconds has waited for the server, so the server is reachable.
LONG_POLL = 1.0


class Action(enum.Enum):
    """What the client does after a failed poll."""

    #: The operation is in progress: poll again, without limit.
    POLL_AGAIN = "poll again"
    #: A gateway ended a poll that lasted: the operation is most likely in progress. Poll again, without limit.
    POLL_ABANDONED = "poll again, although the response may be lost"
    #: The poll failed: poll again if the retry policy allows it, after the policy's delay.
    BACK_OFF = "back off"
    #: A gateway responded instead of the server: poll again after the policy's delay, within the policy's limit.
    AWAIT_GATEWAY = "await the gateway"
    #: The server rejected a valid poll: poll again, at most ``MOST_BAD_POLLS`` times.
    RETRY_BAD_REQUEST = "retry a bad request"
    #: Wait until the account is paid.
    AWAIT_PAYMENT = "await payment"
    #: The future does not exist on the server yet: poll again for a minute.
    AWAIT_FUTURE = "await the future"
    #: The checkpoint is being written: poll again after a delay, without limit.
    AWAIT_CHECKPOINT = "await the checkpoint"
    #: The operation failed: poll again twice within ten seconds, because some servers return this while they restart.
    CONFIRM_FAILURE = "confirm the failure"
    #: The server has lost the result.
    RAISE_EXPIRED = "raise PromiseExpiredError"
    #: The error is final.
    RAISE = "raise the error"


class FailedPoll(NamedTuple):
    """One row of the table."""

    #: None: any status.
    status: Optional[int]
    #: The form of the body: "detail" (JSON with a ``detail``), "gateway" (no JSON, from something between client and
    #: server) or "any". "lasted": any body after a poll of at least :data:`LONG_POLL` seconds.
    form: str
    #: After a poll of one server future.
    action: Action
    #: After a bulk poll.
    bulk_action: Action


#: The first row that matches decides. Statuses without a row: BACK_OFF if they are transient, otherwise RAISE.
FAILED_POLLS: Tuple[FailedPoll, ...] = (
    FailedPoll(504, "lasted", Action.POLL_ABANDONED, Action.BACK_OFF),
    FailedPoll(524, "lasted", Action.POLL_ABANDONED, Action.BACK_OFF),
    FailedPoll(None, "gateway", Action.AWAIT_GATEWAY, Action.BACK_OFF),
    FailedPoll(400, "any", Action.RETRY_BAD_REQUEST, Action.RETRY_BAD_REQUEST),
    FailedPoll(402, "any", Action.AWAIT_PAYMENT, Action.AWAIT_PAYMENT),
    FailedPoll(404, "any", Action.AWAIT_FUTURE, Action.RAISE),
    FailedPoll(408, "any", Action.POLL_AGAIN, Action.BACK_OFF),
    FailedPoll(409, "detail", Action.RAISE, Action.BACK_OFF),
    FailedPoll(410, "any", Action.RAISE_EXPIRED, Action.RAISE),
    FailedPoll(425, "any", Action.AWAIT_CHECKPOINT, Action.RAISE),
    FailedPoll(500, "detail", Action.CONFIRM_FAILURE, Action.BACK_OFF),
    FailedPoll(501, "any", Action.RAISE, Action.BACK_OFF),
)


def action_after(
    error: APIError, *, lasted: float = 0.0, retries_bad_requests: bool = True, is_bulk: bool = False
) -> Action:
    """Return what the client does after a poll that failed, other than by its connection.

    Args:
        lasted: Seconds from the request to the response.
        retries_bad_requests: Whether the server may reject a valid poll with 400.
        is_bulk: Whether it was a bulk poll.
    """
    status = getattr(error, "status_code", 0)
    forms = {"any"}
    if isinstance(error.body, dict) and "detail" in error.body:
        forms.add("detail")
    if is_from_intermediary(error):
        forms.add("gateway")
    if lasted >= LONG_POLL:
        forms.add("lasted")
    if status == 400 and not retries_bad_requests and "gateway" not in forms:
        return Action.RAISE
    for row in FAILED_POLLS:
        if row.status in (None, status) and row.form in forms:
            return row.bulk_action if is_bulk else row.action
    return Action.BACK_OFF if is_transient(status, last=999) else Action.RAISE
