"""Tests of the installed distribution: ``pip install .[tensorboard,mlflow,wandb] ../.. pytest && pytest``."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import pytest
import tinkex_sync_trackers
from tinkex_sync_trackers import MLflow, Run, TensorBoard, Tracker, Trackers, WandB

from tinkex_sync import ServiceClient, types
from tinkex_sync.local import LocalServer
from tinkex_sync.plugins import Observers, Source
from tinkex_sync.testing import ScaledClock, assert_thread_safe, check_plugin

DATUM = types.Datum(model_input=types.ModelInput.from_ints([1, 2, 3]), loss_fn_inputs={"target_tokens": [2, 3, 4]})
PARAMS = types.SamplingParams(max_tokens=5)
ABSENT = "the tracker is not installed; `tox -e trackers` installs all three"
ADAM = types.AdamParams(learning_rate=0.01, weight_decay=0.1, grad_clip_norm=1.5)
SOURCE = Source("training", "t1", "s1")


class Notes(Tracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.opened: List[Tuple[str, str, Dict[str, Any]]] = []
        self.logged: Dict[str, List[Tuple[int, Dict[str, float]]]] = {}
        self.ended: List[str] = []

    def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
        self.opened.append((name, group, dict(settings)))
        notes = self
        notes.logged[name] = []

        class Kept(Run):
            def log(self, step: int, values: Mapping[str, float]) -> None:
                notes.logged[name].append((step, dict(values)))

            def end(self) -> None:
                notes.ended.append(name)

        return Kept()


@pytest.fixture(scope="module")
def server():
    with LocalServer() as running:
        yield running


def train(server: LocalServer, *trackers: Tracker, steps: int = 3) -> str:
    """Run a few steps and samples; return the id of the model when everything is written."""
    plugin = Trackers(*trackers)
    with ServiceClient(
        base_url=server.base_url, api_key="local", plugins=[plugin], load_plugins=False, strict_plugins=True
    ) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        for _ in range(steps):
            training.train_step([DATUM, DATUM], "cross_entropy", ADAM)
            sampler.sample(types.ModelInput.from_ints([1, 2]), 1, PARAMS)
    # The client waits for 5 s, which may be too short on a slow machine.
    assert plugin.close()
    assert (plugin.dropped, plugin.failed) == (0, 0)
    return str(training.model_id)


def check(logged: List[Tuple[int, Dict[str, float]]], steps: int = 3) -> None:
    """Check the values of a run of ``train`` that were read back."""
    assert [step for step, _ in logged] == list(range(1, steps + 1))
    losses = [values["train/loss"] for _, values in logged]
    assert all(loss > 0 for loss in losses) and len(set(losses)) == steps
    for step, values in logged:
        assert values["optim/learning_rate"] == pytest.approx(0.01)
        assert values["optim/weight_decay"] == pytest.approx(0.1)
        assert values["optim/grad_clip_norm"] == pytest.approx(1.5)
        assert values["optim/grad_norm_mean"] > 0
        assert (values["train/tokens"], values["train/tokens_total"], values["train/datums"]) == (6, 6 * step, 2)
        assert values["train/loss_sum"] == pytest.approx(values["train/loss"])
        assert values["train/seconds"] > 0
        # A sample belongs to the step that follows it.
        assert (step > 1) == (0 < values.get("sample/completion_tokens", 0) <= 5)
        assert values.get("sample/samples") == (None if step == 1 else 1)


def test_it_is_loaded_by_its_entry_point() -> None:
    assert metadata.version("tinkex-sync-trackers")
    [status] = [status for status in Observers(strict=True).report() if status.name == "trackers"]
    assert (status.distribution, status.status) == ("tinkex-sync-trackers", "active")


def test_its_hooks_and_arguments_exist_and_it_is_thread_safe() -> None:
    assert not check_plugin(Trackers(Notes()))
    assert_thread_safe(Trackers(Notes()))


def test_each_step_is_logged_with_loss_parameters_and_tokens(server: LocalServer) -> None:
    notes = Notes()
    model = train(server, notes)
    [(name, group, settings)] = notes.opened
    assert name == f"tiny-{model}" and group
    assert settings == {"base_model": "tinkex/tiny", "rank": 2, "model_id": model}
    check(notes.logged[name])
    assert notes.ended == [name]


def test_several_training_clients_have_a_run_each(server: LocalServer) -> None:
    notes = Notes()
    with ServiceClient(
        base_url=server.base_url, api_key="local", plugins=[Trackers(notes)], load_plugins=False
    ) as service:
        for _ in range(2):
            service.create_lora_training_client("tinkex/tiny", rank=2).train_step([DATUM], "cross_entropy", ADAM)
    assert [len(steps) for steps in notes.logged.values()] == [1, 1]
    assert len({group for _, group, _ in notes.opened}) == 1
    assert sorted(notes.ended) == sorted(notes.logged)


def play(*events: Tuple[Any, ...]) -> List[Tuple[int, Dict[str, float]]]:
    """Call hooks of a plugin; return what it logs for the training client."""
    notes, hooks = Notes(), {}
    plugin = Trackers(notes)
    for kind, call, *facts in events:
        if kind == "start":
            plugin.tinkex_call_started(SOURCE, call, facts[0])
            hooks[call] = facts[0]
        elif kind == "wait":
            plugin.tinkex_queue_state_changed(SOURCE, call, "paused_capacity", 0.0)
            plugin.tinkex_queue_state_changed(SOURCE, call, "active", facts[0])
        else:
            outcome = "ok" if facts else "error"
            plugin.tinkex_call_finished(SOURCE, call, hooks[call], outcome, facts[0] if facts else {})
    assert plugin.flush()
    plugin.close()
    return notes.logged.get("model-t1", [])


def test_passes_belong_to_the_step_called_after_them_whichever_result_comes_first() -> None:
    logged = play(
        ("start", "a", "forward_backward"),
        ("start", "b", "forward_backward"),
        ("start", "s1", "optim_step"),
        ("start", "c", "forward_backward"),
        ("start", "s2", "optim_step"),
        ("wait", "b", 2.0),
        ("wait", "c", 3.0),
        ("wait", "a", 0.5),
        ("end", "c", {"loss": 9.0, "tokens": 7}),
        ("end", "s2", {"step": 2, "metrics": {}}),
        ("end", "b", {"loss": 4.0, "tokens": 20}),
        ("end", "s1", {"step": 1, "metrics": {}}),
        ("end", "a", {"loss": 2.0, "tokens": 10}),
    )
    assert [(step, v["train/loss"], v["train/tokens"], v["train/queue_seconds"]) for step, v in logged] == [
        (1, 3.0, 30, 2.5),
        (2, 9.0, 7, 3.0),
    ]


def test_a_step_that_failed_is_not_logged_and_the_next_one_is() -> None:
    logged = play(
        ("start", "a", "forward_backward"),
        ("start", "s1", "optim_step"),
        ("end", "a", {"loss": 2.0}),
        ("end", "s1"),
        ("start", "b", "forward_backward"),
        ("start", "s2", "optim_step"),
        ("end", "b", {"loss": 1.0}),
        ("end", "s2", {"step": 1}),
    )
    assert [(step, values["train/loss"]) for step, values in logged] == [(1, 1.0)]


def test_a_forward_pass_is_logged_as_an_evaluation_at_the_last_step() -> None:
    logged = play(
        ("start", "s1", "optim_step"),
        ("end", "s1", {"step": 1}),
        ("start", "f", "forward"),
        ("end", "f", {"loss": 0.5, "metrics": {"loss:sum": 0.5}}),
    )
    assert logged[1] == (1, {"forward/loss": 0.5, "forward/loss_sum": 0.5})


def test_a_tracker_that_fails_prevents_no_other(server: LocalServer, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Tracker):
        def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
            raise OSError("no space left")

    notes = Notes()
    train(server, Broken(), notes)
    assert [step for step, _ in notes.logged[notes.opened[0][0]]] == [1, 2, 3]
    assert "no space left" in caplog.text and caplog.text.count("Traceback") == 1


def test_errors_in_a_row_are_logged_once_and_do_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Flaky(Notes):
        def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
            run, logged = super().open(name, group, settings), self.logged

            class Failing(Run):
                def log(self, step: int, values: Mapping[str, float]) -> None:
                    if step in (2, 3, 5):
                        raise OSError(f"step {step}")
                    run.log(step, values)

                def end(self) -> None:
                    assert len(logged[name]) == 3
                    raise OSError("no end")

            return Failing()

    flaky, notes = Flaky(), Notes()
    plugin = Trackers(flaky, notes)
    for step in range(1, 7):
        plugin.tinkex_call_started(SOURCE, f"s{step}", "optim_step")
        plugin.tinkex_call_finished(SOURCE, f"s{step}", "optim_step", "ok", {"step": step})
    plugin.tinkex_session_closed(SOURCE)
    assert plugin.close() and plugin.failed == 0
    assert [step for step, _ in flaky.logged["model-t1"]] == [1, 4, 6]
    assert notes.ended == ["model-t1"]  # the failure of one tracker's end does not affect another one's
    assert [text for text in ("step 2", "step 3", "step 5", "no end") if f"OSError: {text}" in caplog.text] == [
        "step 2",
        "step 5",
        "no end",
    ]


class Blocked(Notes):
    """A tracker that opens a run only after it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.released = threading.Event(), threading.Event()

    def open(self, name: str, group: str, settings: Mapping[str, Any]) -> Run:
        self.began.set()
        assert self.released.wait(60)
        return super().open(name, group, settings)


def test_a_tracker_that_hangs_does_not_delay_the_run(server: LocalServer) -> None:
    blocked = Blocked()
    plugin = Trackers(blocked)
    with ServiceClient(
        base_url=server.base_url, api_key="local", plugins=[plugin], load_plugins=False, clock=ScaledClock(50)
    ) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        for _ in range(3):
            training.train_step([DATUM], "cross_entropy", ADAM)
        assert blocked.began.wait(30) and not blocked.logged
    assert not blocked.logged  # the client is closed
    blocked.released.set()
    assert plugin.close()
    assert [step for step, _ in blocked.logged[f"tiny-{training.model_id}"]] == [1, 2, 3]


def test_samples_do_not_fill_the_queue_while_a_tracker_hangs() -> None:
    blocked, other = Blocked(), Source("sampling", "a", "s1")
    plugin = Trackers(blocked)

    def step(number: int) -> None:
        plugin.tinkex_call_started(SOURCE, f"s{number}", "optim_step")
        plugin.tinkex_call_finished(SOURCE, f"s{number}", "optim_step", "ok", {"step": number})

    step(1)
    assert blocked.began.wait(30)
    for number in range(2 * plugin.capacity):
        plugin.tinkex_call_started(other, f"a{number}", "sample")
        facts = {"prompt_tokens": 2, "completion_tokens": 3}
        plugin.tinkex_call_finished(other, f"a{number}", "sample", "ok", facts)
    step(2)
    blocked.released.set()
    assert plugin.close() and plugin.dropped == 0
    assert blocked.logged["model-t1"][1][1]["sample/completion_tokens"] == 6 * plugin.capacity


EXIT = """
import atexit, sys, threading
from tinkex_sync import ServiceClient, types
from tinkex_sync.testing import ScaledClock
from tinkex_sync_trackers import Run, Tracker, Trackers

released = threading.Event()

class Printed(Tracker, Run):
    def open(self, name, group, settings):
        return self
    def log(self, step, values):
        released.wait()
        print("step", step, flush=True)
    def end(self):
        print("end", flush=True)

datum = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
with ServiceClient(
    base_url=sys.argv[1], api_key="local", plugins=[Trackers(Printed())], load_plugins=False, clock=ScaledClock(50)
) as service:
    training = service.create_lora_training_client("tinkex/tiny", rank=2)
    for _ in range(30):
        training.train_step([datum], "cross_entropy", types.AdamParams())
    atexit.register(released.set)
print("closed", flush=True)
"""


def test_steps_that_are_left_are_logged_at_the_end_of_the_process(server: LocalServer) -> None:
    command = [sys.executable, "-c", EXIT, server.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n") == ["closed", *(f"step {step}" for step in range(1, 31)), "end", ""], done.stderr


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_child_gets_free_locks() -> None:
    plugin = Trackers(Notes())
    with plugin._steps_lock:
        child = os.fork()
        if not child:
            os._exit(0 if plugin._steps_lock.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_a_variable_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tinkex_sync_trackers._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    plugin = Trackers()
    plugin.tinkex_call_started(SOURCE, "a", "optim_step")
    assert plugin.flush() and plugin._thread is None


@pytest.mark.parametrize(
    "make, module, extra",
    [
        (lambda: TensorBoard("x"), "tensorboard.summary.writer.event_file_writer", "tensorboard"),
        (lambda: MLflow("x"), "mlflow.tracking", "mlflow"),
        (lambda: WandB("x"), "wandb", "wandb"),
    ],
)
def test_a_tracker_that_is_not_installed_is_named(
    make: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module.partition('.')[0]}.entities", None)
    with pytest.raises(ImportError, match=rf'{extra} is not installed: pip install "tinkex-sync-trackers\[{extra}\]"'):
        make()


def test_tensorboard_reads_the_values(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason=ABSENT)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TINKEX_SYNC_TENSORBOARD", str(tmp_path))
    model = train(server)
    events = EventAccumulator(str(tmp_path / f"tiny-{model}"))
    events.Reload()
    steps: Dict[int, Dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        for one in events.Scalars(tag):
            steps.setdefault(one.step, {})[tag] = one.value
    check(sorted(steps.items()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own dependencies
def test_mlflow_reads_the_values(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason=ABSENT)
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("TINKEX_SYNC_MLFLOW", "tiny runs")
    model = train(server)
    train(server, MLflow("other runs", tracking_uri=uri), steps=1)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tiny runs")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == f"tiny-{model}" and run.info.status == "FINISHED"
    assert run.data.params == {"base_model": "tinkex/tiny", "rank": "2", "model_id": model}
    steps: Dict[int, Dict[str, float]] = {}
    for name in run.data.metrics:
        for one in client.get_metric_history(run.info.run_id, name):
            steps.setdefault(one.step, {})[name] = one.value
    check(sorted(steps.items()))
    [run] = client.search_runs([client.get_experiment_by_name("other runs").experiment_id])
    assert run.data.metrics["train/tokens"] == 6


def read_wandb(content: bytes) -> Iterator[bytes]:
    """Yield the records of a run file: blocks of 32 KiB, with pieces that have a checksum, a length and a kind."""
    assert content[:4] == b":W&B"
    position, record = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield record
            record = b""


@pytest.mark.parametrize("by_variable", [True, False])
def test_wandb_reads_the_values(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    wandb = pytest.importorskip("wandb", reason=ABSENT)
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    if by_variable:
        for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("TINKEX_SYNC_WANDB", "tiny")):
            monkeypatch.setenv(name, value)
        model = train(server)
    else:
        model = train(server, WandB("tiny", mode="offline", dir=str(tmp_path)))
    wandb.teardown()  # finish() may return before its process has written the end of the file
    [path] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    steps, runs, exits = [], [], 0
    for data in read_wandb(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            runs.append((record.run.display_name, record.run.project, record.run.run_group))
        if kind == "history":
            keys = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps.append((int(keys["_step"]), {name: value for name, value in keys.items() if name[0] != "_"}))
        exits += kind == "exit"
    assert runs[0][:2] == (f"tiny-{model}", "tiny") and runs[0][2]
    check(steps)
    assert exits == 1  # the run is finished
