"""Replay of the file about telemetry: what is sent, by a real client to a real server.

Row 12 of DEVIATIONS.md changes when: no SESSION_END before the end, and a wrong argument is no event at all.
Headers that name the official SDK are row 18's; event indexes count from where the case begins.
"""

import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from tinkex_sync import Config, ServiceClient, errors, types

from .registry import no_excuse, not_understood, only, replay

sys.path.insert(0, str(Path(__file__).parent.parent))
from scripted_server import Answer, ScriptedServer  # noqa: E402

_OTHER = re.compile(r"x-stainless-.*|user-agent|host|accept-encoding|content-length")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def matches(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, str) and theirs.startswith("<"):
        if theirs == "<uuid4>":
            return bool(_UUID.fullmatch(ours))
        if theirs.startswith("<ISO-8601 UTC"):
            return bool(_TIME.fullmatch(ours))
        return ours is not None
    if isinstance(theirs, dict):
        return set(theirs) == set(ours) and all(matches(ours[key], theirs[key]) for key in theirs)
    return type(ours) is type(theirs) and bool(ours == theirs)


def run(do: str, given: Dict[str, Any], expected: Dict[str, Any]) -> List[Any]:
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["telemetry"] = Answer(body={"status": "accepted"})
        config = Config(base_url=server.base_url, api_key="tml-test-key", telemetry=True)
        with ServiceClient(config=config, load_plugins=False) as service:
            telemetry = service.get_telemetry()
            assert telemetry is not None
            if not do.startswith("create ServiceClient"):
                assert telemetry.flush()
                server.clear()
            perform(do, given, expected, server, service)
            assert telemetry.flush()
            return list(server.sent("telemetry"))


def perform(do: str, given: Dict[str, Any], expected: Dict[str, Any], server: Any, service: Any) -> None:
    telemetry = service.get_telemetry()
    if do.startswith("create ServiceClient"):
        return
    if do.startswith("create_sampling_client() without arguments"):
        with pytest.raises(ValueError, match="model_path or base_model"):
            service.create_sampling_client()
        return
    found = re.match(r"rest\.get_training_run\('(\w+)'\) answered (\d+)$", do)
    if found:
        server.defaults["training_runs/" + found[1]] = Answer(int(found[2]), given["body"])
        with pytest.raises(getattr(errors, expected["raised"])):
            service.create_rest_client().get_training_run(found[1])
        return
    if do.startswith("telemetry.log("):
        event = expected["batches"][0]["body"]["events"][0]
        assert f"'{event['event_name']}'" in do and f"'{event['severity']}'" in do
        telemetry.log(event["event_name"], event["event_data"], event["severity"])
        return
    found = re.match(r"(\d+) generic events, then one logged exception", do)
    if found:
        for number in range(int(found[1])):
            telemetry.log("event", {"number": number})
        telemetry.log_exception(RuntimeError("not fatal"))
        return
    if do.startswith(
        "optim_step whose promise answers 408 {queue_state: active} then {error: bad input, cat"
    ):
        server.script("create_model", Answer(body={"request_id": "req-1"}))
        server.script("optim_step", Answer(body={"request_id": "req-2"}))
        server.script(
            "retrieve_future",
            Answer(body={"type": "create_model", "model_id": "m"}),
            Answer(408, {"queue_state": "active"}),
            Answer(body={"error": "bad input", "category": "user"}),
        )
        training = service.create_lora_training_client("m")
        with pytest.raises(getattr(errors, expected["raised"])):
            training.optim_step(types.AdamParams())
        return
    not_understood(do)


@replay("telemetry")
def telemetry(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "do", "body")
    expected = only(case["expected"], "raised", "call_seconds", "batches", "batch_sizes")
    no_excuse(row, 12)
    requests = run(given["do"], given, expected)
    if "batch_sizes" in expected:
        assert [len(request.body["events"]) for request in requests] == expected["batch_sizes"]
        return
    wanted = [event for batch in expected["batches"] for event in batch["body"]["events"]]
    ours = [event for request in requests for event in request.body["events"]]
    if row == 12:
        wanted = [event for event in wanted if event["event"] not in ("SESSION_END", "UNHANDLED_EXCEPTION")]
        names = [event["event_name"] for event in wanted]
        assert [event["event_name"] for event in ours] == names
        for mine, theirs in zip(ours, wanted):
            # The poll's own record knows its status, not its promise.
            shared = set(theirs["event_data"]) & set(mine["event_data"]) - {"message"}
            assert {"status_code", "is_user_error", "error_type"} & shared
            assert all(matches(mine["event_data"][key], theirs["event_data"][key]) for key in shared)
        return
    (request,), (batch,) = requests, expected["batches"]
    assert len(ours) == len(wanted)
    first, theirs_first = ours[0]["event_session_index"], wanted[0]["event_session_index"]
    for mine, theirs in zip(ours, wanted):
        assert mine.pop("event_session_index") - first == theirs["event_session_index"] - theirs_first
        theirs = {key: value for key, value in theirs.items() if key != "event_session_index"}
        assert matches(mine, theirs), (mine, theirs)
    assert {key: value for key, value in request.body.items() if key != "events"}.keys() == (
        batch["body"].keys() - {"events"}
    )
    for name, value in batch["headers"].items():
        if not _OTHER.fullmatch(name):
            assert matches(request.headers[name], value), name
