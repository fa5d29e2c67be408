"""Replays of the dispatch of chunks and samples in protocol 0.38.0: order, numbers and retries."""

import pickle
import threading
import time
from typing import Any, Dict, List, Optional

import pytest
from scripted_server import Answer, Request, ScriptedServer, SteppedClock, bare_session

from tinkex_sync import errors, types
from tinkex_sync.clients.sampling import SamplingClient
from tinkex_sync.clients.training import TrainingClient
from tinkex_sync.session import Session

from .registry import no_excuse, not_understood, only, replay38

#: 0.38.0 sends chunks in parallel by default. Our client does so only if the server enables it. (Row 1.)
SERIAL_BY_DEFAULT = 1
#: After a refused chunk the next operation is sent, and the error lists the accepted chunks. (Row 2.)
NEXT_IS_SENT = 2
PROMPT_TOKENS = "prompt_tokens"


def datum(index: int) -> types.Datum:
    return types.Datum(
        model_input=types.ModelInput.from_ints([index]), loss_fn_inputs={"target_tokens": [7], "weights": [1.0]}
    )


def number_of(request: Request) -> int:
    if isinstance(request.body, bytes):
        from tinkex_sync.protocol.protobuf_schema import message

        parsed = message("ForwardBackwardRequest")()
        parsed.ParseFromString(request.body)
        return int(parsed.seq_id)
    return int(request.body["seq_id"])


class Trainer:
    """A server that accepts training operations after a delay and refuses some sequence numbers once."""

    def __init__(self, server: ScriptedServer, delays: Dict[str, float], refused: List[int]) -> None:
        self.delays, self.refused = delays, refused
        self.arrived: List[int] = []
        self.times: List[float] = []
        self._lock = threading.Lock()
        for name in ("forward_backward", "optim_step"):
            server.defaults[name] = self.take
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["retrieve_future"] = self.result

    def take(self, request: Request) -> Answer:
        number = number_of(request)
        with self._lock:
            self.arrived.append(number)
            self.times.append(time.monotonic())
            if number in self.refused:
                self.refused.remove(number)
                return Answer(400, {"detail": "bad"})
        seconds = self.delays.get(str(number), 0.0)
        hold = (lambda: threading.Event().wait(seconds)) if seconds else None
        return Answer(body={"request_id": f"req-{number}"}, hold=hold)

    @staticmethod
    def result(request: Request) -> Answer:
        if request.headers["x-tinker-request-type"] == "OptimStep":
            return Answer(body={"metrics": {}})
        output = {"logprobs": {"data": [-0.5], "dtype": "float32", "shape": [1]}}
        body = {"loss_fn_output_type": "x", "loss_fn_outputs": [output], "metrics": {"loss:sum": 1.0}}
        return Answer(body=body)


def opened(server: ScriptedServer, session: Session, config: Dict[str, Any]) -> TrainingClient:
    # The client uses 0.38 even if the response does not identify the protocol.
    server.script("client/config", Answer(body=config))
    server.defaults["client/dynamic_config"] = Answer(body={})
    session.open()
    return TrainingClient(session, "model-1")


@replay38("fwdbwd_dispatch")
def fwdbwd_dispatch(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "client_config", "datums", "then_optim_step", "server_delay_s_by_seq_id")
    expected = only(case["expected"], "result_metrics", "outputs", "optim", "arrivals", "exception", "mro", "str")
    no_excuse(row, SERIAL_BY_DEFAULT)
    pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    refused = [2] if "exception" in expected else []
    with bare_session(protocol="0.38") as (server, session):
        trainer = Trainer(server, given["server_delay_s_by_seq_id"], refused)
        training = opened(server, session, given["client_config"])
        data = [datum(index) for index in range(given["datums"])]
        output: Any = None
        try:
            output = training.forward_backward(data, "cross_entropy", timeout=30)
        except errors.TinkexError as error:
            output = error
        if given["then_optim_step"]:
            training.optim_step(types.AdamParams(), timeout=30)
    if "exception" in expected:
        cause = output.__cause__ if isinstance(output, errors.PartialBatchError) else output
        assert type(cause).__name__ == expected["exception"]
    else:
        assert output.metrics == expected["result_metrics"]
        assert [one["logprobs"].data for one in output.loss_fn_outputs] == expected["outputs"]
    recorded = [one["seq_id"] for one in expected["arrivals"]]
    if row == SERIAL_BY_DEFAULT:
        assert given["client_config"].get("parallel_fwdbwd_chunks") is None
        assert trainer.arrived == sorted(trainer.arrived)
        return
    check_order(trainer, expected["arrivals"], recorded)


def check_order(trainer: Trainer, arrivals: List[Dict[str, Any]], recorded: List[int]) -> None:
    assert sorted(trainer.arrived) == sorted(recorded)
    began = trainer.times[0]
    times = {number: when - began for number, when in zip(trainer.arrived, trainer.times)}
    for one in arrivals:
        # Requests may be late on a busy machine. None may arrive before the request that it waits for.
        assert one["t"] - 0.15 <= times[one["seq_id"]] <= one["t"] + 2.0
    order = {number: place for place, number in enumerate(trainer.arrived)}
    for earlier, later in zip(arrivals, arrivals[1:]):
        if earlier["t"] < later["t"]:
            assert order[earlier["seq_id"]] < order[later["seq_id"]]


@replay38("lost_turn")
def lost_turn(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "parallel_fwdbwd_chunks", "server", "wait_for_next_s")
    expected = only(case["expected"], "first", "next_optim_step", "seq_ids_sent")
    no_excuse(row, NEXT_IS_SENT)
    pytest.importorskip("google.protobuf", reason="protobuf is not in this environment")
    words = given["server"].split()
    if words[:3] != ["400", "for", "seq_id"]:
        not_understood(given["server"])
    with bare_session(protocol="0.38") as (server, session):
        trainer = Trainer(server, {}, [int(words[3])])
        parallel = given["parallel_fwdbwd_chunks"]
        config = {"fwdbwd_max_chunk_len": 1, "parallel_fwdbwd_chunks": parallel}
        training = opened(server, session, config)
        with pytest.raises(errors.PartialBatchError) as partial:
            training.forward_backward([datum(index) for index in range(3)], "cross_entropy", timeout=30)
        assert type(partial.value.__cause__).__name__ == expected["first"]["exception"]
        # The next operation is sent.
        training.optim_step(types.AdamParams(), timeout=given["wait_for_next_s"] * 10)
    assert row == NEXT_IS_SENT
    taken = [number for number in trainer.arrived if number != int(words[3])]
    if parallel:
        assert sorted(trainer.arrived) == [1, 2, 2, 3, 4]
    else:
        # Chunks that were not sent when the second one was refused are not sent.
        assert trainer.arrived == [1, 2, 2] and taken == [1]


# Samples


@replay38("sampling_dispatch")
def sampling_dispatch(case: Dict[str, Any], document: Dict[str, Any], row: Optional[int]) -> None:
    given = only(case["input"], "server", "client_config", "dynamic_config", "samples", PROMPT_TOKENS, "note")
    expected = only(
        case["expected"], *("results", "after", "asample", "distinct_idempotency_keys", "other_requests", "polls")
    )
    # Row 3: all attempts with one body have one key. Row 4: a lost result is sampled again despite the flag.
    no_excuse(row, 3, 4)
    story = case["name"].partition("_")[0]
    if "after" in expected and story not in ("410", "clone", "cancel"):
        not_understood(f"story of {case['name']}")
    clock = None if story == "cancel" else SteppedClock()
    with bare_session(clock, protocol="0.38") as (server, session):
        server.script("client/config", Answer(body=given["client_config"]))
        server.defaults["client/dynamic_config"] = Answer(body=given["dynamic_config"])
        server.defaults["create_session"] = Answer(body={"session_id": "sess-1"})
        server.defaults["join_sampling_session"] = Answer(body={"client_counter": 7})
        server.defaults["cancel_future"] = Answer(body={})
        session.open()
        server.script("asample", *(Answer(status, {"detail": "x"}) for status in given["server"]))
        server.defaults["asample"] = lambda request: Answer(body={"request_id": f"req-{number_of(request)}"})
        server.defaults["retrieve_future"] = Answer(body={"type": "sample", "sequences": []})
        sampler = SamplingClient(session, "sess-1:sample:0")
        began = session.clock.time()
        outcomes = run_story(story, server, sampler, given)
        sent = server.sent("asample")
        polls = server.sent("retrieve_future")
        others = [one for one in server.requests if one.operation in ("join_sampling_session", "cancel_future")]
    for outcome, theirs in zip(outcomes, expected.get("results", [expected.get("after")])):
        if isinstance(theirs, dict) and row != 4:
            renamed = {"RetryableException": "PromiseExpiredError"}
            assert type(outcome).__name__ == renamed.get(theirs["exception"], theirs["exception"])
        elif theirs == "ok":
            assert isinstance(outcome, types.SampleResponse), repr(outcome)
    if row == 4:
        assert isinstance(outcomes[0], types.SampleResponse) and len(sent) == 2
        return
    assert len(sent) == len(expected["asample"]) and len(polls) == expected["polls"]
    for request, theirs in zip(sent, expected["asample"]):
        check_number(number_of(request), theirs["seq_id"])
        if clock is not None:
            assert theirs["t"] - 0.3 <= request.time - began <= theirs["t"] + 0.3
    keys = {str(one.headers["x-idempotency-key"]) for one in sent}
    if row == 3:
        assert len(keys) == len({number_of(one) for one in sent})
    else:
        assert len(keys) == expected["distinct_idempotency_keys"]
    assert [one.path for one in others] == [one["path"] for one in expected["other_requests"]]


def check_number(ours: int, recorded: Any) -> None:
    if isinstance(recorded, dict):
        only(recorded, "$random_block", "remainder", "block_in_range")
        assert ours % 1_000_000_000 == recorded["remainder"]
        assert 1 <= ours // 1_000_000_000 <= 1_000_000_000
    else:
        assert ours == recorded


def run_story(story: str, server: ScriptedServer, sampler: SamplingClient, given: Dict[str, Any]) -> List[Any]:
    """Call the client as the case describes, in some cases by its name only; return the results or errors."""
    prompt = types.ModelInput.from_ints([1] * given[PROMPT_TOKENS])
    params = types.SamplingParams(max_tokens=1)

    def sample(client: SamplingClient) -> Any:
        try:
            return client.sample(prompt, 1, params)
        except errors.TinkexError as error:
            return error

    if story == "410":
        server.script("retrieve_future", Answer(410, {"detail": "gone"}))
    if story == "clone":
        # The sampler, and two copies made as another process would make them.
        outcomes = [sample(sampler)]
        for _ in range(2):
            copy = pickle.loads(pickle.dumps(sampler))  # noqa: S301 - pickled here
            rebuilt = Session(sampler.session.config, sampler.session.observers, owned=False)
            rebuilt.restore(copy._origin.negotiated)
            copy._on_rebuilt(rebuilt)
            copy._own_session = rebuilt
            outcomes.append(sample(copy))
            rebuilt.close(None)
        return outcomes
    if story == "cancel":
        polled, released = threading.Event(), threading.Event()
        held = Answer(body={"type": "sample", "sequences": []}, hold=lambda: (polled.set(), released.wait(20)))
        server.defaults["retrieve_future"] = held
        future = sampler.submit_sample(prompt, 1, params)
        assert polled.wait(20)
        cancelled = future.cancel()
        ends = time.monotonic() + 10
        while cancelled and not server.sent("cancel_future") and time.monotonic() < ends:
            threading.Event().wait(0.01)
        assert cancelled == bool(given["dynamic_config"].get("sample_cancel_enabled"))
        released.set()
        return []
    return [sample(sampler) for _ in range(given["samples"])]
