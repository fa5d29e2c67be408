"""Replay of telemetry: the events that a client sends to a server.

By row 12 of DEVIATIONS.md, SESSION_END is sent only at the end, and a wrong argument causes no event. Row 18 excludes
headers that identify the official SDK, and row 6 the texts of failed operations. Event indexes are compared relative
to the first event of the case.
"""

import ast
import platform
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from tinkex_sync import Config, ServiceClient, types

from .registry import error_class, no_excuse, not_understood, only, replay

sys.path.insert(0, str(Path(__file__).parent.parent))
from scripted_server import Answer, ScriptedServer  # noqa: E402

_OTHER = re.compile(r"x-stainless-.*|user-agent|host|accept-encoding|content-length")
_SHAPES = {
    "<uuid4>": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "<ISO-8601 UTC": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
    "<str(timedelta)": r"\d+:\d\d:\d\d(\.\d{6})?",
}
_FAILED = re.compile(r"Request failed: (.*) for self\.request_id='(.*)' and expected type .*")
#: Operations for which a case can script the polls.
_OPERATIONS = {
    "optim_step": lambda training: training.optim_step(types.AdamParams()),
    "save_state": lambda training: training.save_state("s"),
    "load_state": lambda training: training.load_state("tinker://r/weights/s"),
    "save_weights_for_sampler": lambda training: training.save_weights_for_sampler("s"),
}
_SENT_TO = {"save_state": "save_weights", "load_state": "load_weights"}


def matches(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, str) and theirs.startswith("<"):
        if theirs == "<platform.system()>":
            return bool(ours == platform.system())
        for beginning, pattern in _SHAPES.items():
            if theirs.startswith(beginning):
                return bool(re.fullmatch(pattern, ours))
        return ours is not None
    if isinstance(theirs, str) and _FAILED.fullmatch(theirs):
        said, request = _FAILED.fullmatch(theirs).groups()  # type: ignore[union-attr]
        return said in ours and request in ours
    if isinstance(theirs, dict):
        return set(theirs) == set(ours) and all(matches(ours[key], theirs[key]) for key in theirs)
    return type(ours) is type(theirs) and bool(ours == theirs)


def run(do: str, given: Dict[str, Any], expected: Dict[str, Any]) -> List[Any]:
    with ScriptedServer() as server:
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["telemetry"] = Answer(body={"status": "accepted"})
        config = Config(base_url=server.base_url, api_key="tml-test-key", telemetry=True, protocol="0.7")
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
        with pytest.raises(error_class(expected["raised"])):
            service.create_rest_client().get_training_run(found[1])
        return
    found = re.fullmatch(r"telemetry\.log\((.*)\)", do)
    if found:
        name, data, severity = ast.literal_eval(f"({found[1]})")
        recorded = expected["batches"][0]["body"]["events"][0]["event_data"]
        # The recorded call does not show arguments that are None.
        left_out = {key: None for key, value in recorded.items() if value is None}
        telemetry.log(name, {**left_out, **data}, severity)
        return
    found = re.match(r"(\d+) generic events, then one logged exception", do)
    if found:
        for number in range(int(found[1])):
            telemetry.log("event", {"number": number})
        telemetry.log_exception(RuntimeError("not fatal"))
        return
    found = re.fullmatch(r"(\w+) whose promise answers (.*)", do)
    if found and found[1] in _OPERATIONS:
        server.script("create_model", Answer(body={"request_id": "req-1"}))
        server.script(_SENT_TO.get(found[1], found[1]), Answer(body={"request_id": "req-2"}))
        server.script(
            "retrieve_future",
            Answer(body={"type": "create_model", "model_id": "m"}),
            *map(answer, found[2].split(" then ")),
        )
        training = service.create_lora_training_client("m")
        with pytest.raises(error_class(expected["raised"])):
            _OPERATIONS[found[1]](training)
        return
    not_understood(do)


def answer(text: str) -> Any:
    """Return the response that a text describes: "408 {queue_state: active}" or "{error: bad, category: user}"."""
    found = re.fullmatch(r"(?:(\d+) ?)?\{(.*)\}", text)
    assert found, text
    pairs = (pair.partition(": ") for pair in found[2].split(", ") if pair)
    return Answer(int(found[1] or 200), {key: value for key, _, value in pairs})


@replay("telemetry")
def telemetry(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "do", "body")
    expected = only(case["expected"], "raised", "call_seconds", "batches", "batch_sizes")
    no_excuse(row, 12)
    requests = run(given["do"], given, expected)
    if "batch_sizes" in expected:
        assert [len(request.body["events"]) for request in requests] == expected["batch_sizes"]
        return
    (batch,) = expected["batches"]
    ours = [event for request in requests for event in request.body["events"]]
    reference = batch["body"]["events"]
    if row == 12:
        if expected["raised"] in ("ValueError", "TypeError"):
            assert ours == []
            return
        reference = [event for event in reference if event["event"] != "SESSION_END"]
    assert [event.get("event_name", event["event"]) for event in ours] == (
        [event.get("event_name", event["event"]) for event in reference]
    )
    first, theirs_first = ours[0]["event_session_index"], reference[0]["event_session_index"]
    for mine, theirs in zip(ours, reference):
        assert mine.pop("event_session_index") - first == theirs["event_session_index"] - theirs_first
        theirs = {key: value for key, value in theirs.items() if key != "event_session_index"}
        assert matches(mine, theirs), (mine, theirs)
    # A failure is sent immediately, so later events may be in another batch.
    for request in requests if row == 12 else [only_one(requests)]:
        rest = {key: value for key, value in request.body.items() if key != "events"}
        assert matches(rest, {key: value for key, value in batch["body"].items() if key != "events"})
        for name, value in batch["headers"].items():
            if not _OTHER.fullmatch(name):
                assert matches(request.headers[name], value), name


def only_one(requests: List[Any]) -> Any:
    (request,) = requests
    return request
