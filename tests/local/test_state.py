"""The parts of a server, and the submission of operations."""

import time

import pytest

from tinkex_sync.local.json_bodies import Body, RejectedRequest
from tinkex_sync.local.options import ServerOptions
from tinkex_sync.local.state import ServerState, accepted


@pytest.fixture
def state(tmp_path):
    state = ServerState.create(ServerOptions(), tmp_path, None)
    yield state
    state.close()


def test_repeated_submission_returns_the_same_future_and_runs_once(state):
    session = {"id": "s", "time": "now"}
    state.store.put("sessions", session)
    model = state.models.plan("s", Body({"base_model": "tinkex/tiny"}))
    state.models.add(model)
    runs = []
    body = Body({"seq_id": 1})
    first = state.submit_training(model, body, b"x", lambda: runs.append(1) or {"done": True})
    again = state.submit_training(model, body, b"x", lambda: runs.append(2))
    assert first[0] is again[0]
    assert (first[1], again[1]) == (True, False)
    assert state.futures.wait(first[0], 10.0).json == b'{"done":true}'
    assert runs == [1]
    assert accepted(first[0]) == {"request_id": first[0].request_id, "model_id": model.record["id"]}


def test_session_id_of_an_unknown_session_gets_404(state):
    with pytest.raises(RejectedRequest, match="no session 'x'") as error:
        state.session_id(Body({"session_id": "x"}))
    assert error.value.status == 404


def test_close_ends_injected_delays_and_held_polls(state):
    future, _ = state.futures.accept("sampling", None, None, b"")
    state.close()
    started = time.monotonic()
    assert state.futures.wait(future, 60.0) is None
    assert state.completions.wait_since(("s", 0), 0, 60.0) == ([], 0)
    assert time.monotonic() - started < 5
    assert state.closing.is_set()
