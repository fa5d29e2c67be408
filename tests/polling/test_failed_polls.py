"""The table of failed polls: what follows each status, for both kinds of polls."""

import pytest

from tinkex_sync.errors import APIResponseValidationError, status_error
from tinkex_sync.polling.failed_polls import FAILED_POLLS, Action, action_after

DETAIL = {"detail": "why"}


@pytest.mark.parametrize(
    ("status", "body", "action", "bulk_action"),
    [
        (400, DETAIL, Action.RETRY_BAD_REQUEST, Action.RETRY_BAD_REQUEST),
        (200, "<html>", Action.AWAIT_GATEWAY, Action.BACK_OFF),
        (302, "", Action.AWAIT_GATEWAY, Action.BACK_OFF),
        (400, "", Action.AWAIT_GATEWAY, Action.BACK_OFF),
        (400, "<html>", Action.AWAIT_GATEWAY, Action.BACK_OFF),
        (401, "<html>", Action.AWAIT_GATEWAY, Action.BACK_OFF),
        (401, DETAIL, Action.RAISE, Action.RAISE),
        (402, DETAIL, Action.AWAIT_PAYMENT, Action.AWAIT_PAYMENT),
        (403, DETAIL, Action.RAISE, Action.RAISE),
        (404, DETAIL, Action.AWAIT_FUTURE, Action.RAISE),
        (408, "", Action.POLL_AGAIN, Action.BACK_OFF),
        (409, DETAIL, Action.RAISE, Action.BACK_OFF),
        (409, {}, Action.BACK_OFF, Action.BACK_OFF),
        (410, {}, Action.RAISE_EXPIRED, Action.RAISE),
        (418, {}, Action.RAISE, Action.RAISE),
        (422, DETAIL, Action.RAISE, Action.RAISE),
        (425, DETAIL, Action.AWAIT_CHECKPOINT, Action.RAISE),
        (429, DETAIL, Action.BACK_OFF, Action.BACK_OFF),
        (500, DETAIL, Action.CONFIRM_FAILURE, Action.BACK_OFF),
        (500, "boom", Action.BACK_OFF, Action.BACK_OFF),
        (501, DETAIL, Action.RAISE, Action.BACK_OFF),
        (503, DETAIL, Action.BACK_OFF, Action.BACK_OFF),
        (599, "", Action.BACK_OFF, Action.BACK_OFF),
    ],
)
def test_the_status_and_the_form_of_the_body_decide_the_action(status, body, action, bulk_action):
    error = APIResponseValidationError(body=body) if status == 200 else status_error(status, body=body)
    assert action_after(error) is action
    assert action_after(error, is_bulk=True) is bulk_action


def test_400_is_final_unless_the_server_returns_it_for_valid_polls():
    assert action_after(status_error(400, body=DETAIL), retries_bad_requests=False) is Action.RAISE


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_that_ends_a_long_poll_has_not_failed_it(status):
    error = status_error(status, body="<html>")
    assert action_after(error, lasted=1.0) is Action.POLL_ABANDONED
    assert action_after(error, lasted=0.9) is Action.BACK_OFF


def test_no_row_is_unreachable():
    rows = [(row.status, row.form) for row in FAILED_POLLS]
    for index, (status, _) in enumerate(rows):
        assert (status, "any") not in rows[:index]
