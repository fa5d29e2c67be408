"""Requests: their path, query, body and headers."""

import dataclasses

import pytest
from scripted_server import Answer, bare_session

from tinkex_sync import types
from tinkex_sync.http.endpoints import ENDPOINTS
from tinkex_sync.http.request import Request, new_idempotency_key


def test_values_in_path_and_query_are_quoted():
    request = Request("session", path_values={"session": "a/b c"}, query={"limit": 5, "name": "x&y"})
    assert request.path == "/api/v1/sessions/a%2Fb%20c?limit=5&name=x%26y"


def test_a_body_is_encoded_once_and_never_changes():
    body = {"a": [1, 2]}
    request = Request("healthz", body)
    content = request.content
    body["a"].append(3)
    assert request.content is content
    assert content == b'{"a":[1,2]}'


@pytest.mark.parametrize(
    ("body", "content"), [(None, None), (b"raw", b"raw"), ({}, b"{}"), (types.GetInfoRequest("m"), b'{"model_id":"m"}')]
)
def test_a_body_is_json_encoded_bytes_or_absent(body, content):
    assert Request("get_info", body).content == content


def test_a_non_finite_number_in_a_body_is_refused_when_it_is_encoded():
    with pytest.raises(ValueError, match=r"^metrics\.a is nan"):
        _ = Request("get_info", {"metrics": {"a": float("nan")}}).content


def test_an_endpoint_is_named_or_given_as_a_row():
    row = dataclasses.replace(ENDPOINTS["healthz"], policy=None)
    assert Request(row).row is row
    assert Request("healthz").row is ENDPOINTS["healthz"]
    with pytest.raises(KeyError):
        _ = Request("no_such_endpoint").row


def test_each_request_has_an_idempotency_key_of_its_own_unless_one_is_given():
    assert Request("get_info").idempotency_key != Request("get_info").idempotency_key
    key = new_idempotency_key()
    assert key.startswith("tinkex-sync-")
    assert Request("get_info", idempotency_key=key).idempotency_key == key


def test_only_requests_that_change_something_are_sent_with_an_idempotency_key():
    with bare_session() as (server, session):
        server.defaults.update(healthz=Answer(body={"status": "ok"}), unload_model=Answer(body={"request_id": "r"}))
        session.call(Request("healthz", headers={"X-Mine": "1"}))
        session.call(Request("unload_model", {"model_id": "m"}))
        get, post = server.requests
    assert (get.method, get.body, get.headers["x-mine"]) == ("GET", None, "1")
    assert "x-idempotency-key" not in get.headers
    assert (post.method, post.body) == ("POST", {"model_id": "m"})
    assert post.headers["x-idempotency-key"].startswith("tinkex-sync-")


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request("healthz").deadline = 1.0
