"""Models and samplers of unused sessions are dropped."""

import threading
import time

from server_calls import Wire, until

from tinkex_sync.local import LocalServer

FINISH = {"reason": {"type": "success"}}


def is_loaded(wire, model):
    # A loaded model gets to the check of the field, which returns 422.
    return wire.post("optim_step", {"model_id": model, "seq_id": "x"}).status_code == 422


def keep_alive(wire, session, seconds):
    """Send heartbeats of a session for some seconds."""
    deadline, tick = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < deadline:
        wire.ok("session_heartbeat", {"session_id": session})
        tick.wait(0.1)


def test_finished_session_has_no_loaded_models(wire_0_38):
    session, other = wire_0_38.session(), wire_0_38.session()
    model, kept = wire_0_38.model(session), wire_0_38.model(other)
    path = wire_0_38.save(model, "a")
    wire_0_38.ok(f"sessions/{session}/finish", FINISH)
    until(lambda: not is_loaded(wire_0_38, model))
    assert is_loaded(wire_0_38, kept)
    wire_0_38.seq = 0
    loaded = wire_0_38.send("load_weights", kept, {"path": path, "optimizer": True})
    assert "error" not in wire_0_38.result(loaded)


def test_models_and_unnamed_samplers_of_a_session_without_requests_are_dropped(tmp_path):
    with LocalServer(session_lifetime=1.0, data=str(tmp_path)) as server, Wire(server) as wire:
        silent, used = wire.session(), wire.session()
        models = [wire.model(session, rank=2) for session in (silent, used)]
        number = {"sampling_session_seq_id": 1}
        samplers = []
        for model in models:
            wire.seq = 0
            future = wire.send("save_weights_for_sampler", model, number)
            samplers.append(wire.result(future)["sampling_session_id"])
        wire.seq = 9
        path = wire.save(models[0], "a", "save_weights_for_sampler")

        keep_alive(wire, used, 2.5)
        assert [is_loaded(wire, model) for model in models] == [False, True]
        statuses = [wire.sample(sampler, 1).status_code for sampler in samplers]
        assert statuses == [404, 200]
        assert wire.sampler(used, 5, model_path=path)
        assert len(list(tmp_path.glob("samplers/*.npz"))) == 1
