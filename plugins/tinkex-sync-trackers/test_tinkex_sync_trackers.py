"""Tests of the installed distribution: ``pip install .[tensorboard,mlflow,wandb] ../.. pytest && pytest``."""

from __future__ import annotations

import json
import struct
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import pytest
import tinkex_sync_trackers
from tinkex_sync_trackers import MLflow, Run, TensorBoard, Tracker, Trackers, WandB

from tinkex_sync import ServiceClient, types
from tinkex_sync.local import LocalServer
from tinkex_sync.plugins import Observers, Source
from tinkex_sync.testing import assert_thread_safe, check_plugin

DATUM = types.Datum(model_input=types.ModelInput.from_ints([1, 2, 3]), loss_fn_inputs={"target_tokens": [2, 3, 4]})
PARAMS = types.SamplingParams(max_tokens=5)
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
    """Run a few steps and samples; return the id of the model."""
    with ServiceClient(
        base_url=server.base_url,
        api_key="local",
        plugins=[Trackers(*trackers)],
        load_plugins=False,
        strict_plugins=True,
    ) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        for _ in range(steps):
            training.train_step([DATUM, DATUM], "cross_entropy", ADAM)
            sampler.sample(types.ModelInput.from_ints([1, 2]), 1, PARAMS)
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
    pytest.importorskip("tensorboard")
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
def test_mlflow_reads_the_values(server: LocalServer, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    model = train(server, MLflow("tiny runs", tracking_uri=uri))
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


def test_wandb_reads_the_values(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    model = train(server, WandB("tiny", mode="offline", dir=str(tmp_path)))
    [path] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    steps, names = [], []
    for data in read_wandb(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "run":
            names.append((record.run.display_name, record.run.project))
        if record.WhichOneof("record_type") == "history":
            keys = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps.append((int(keys["_step"]), {name: value for name, value in keys.items() if name[0] != "_"}))
    assert names[0] == (f"tiny-{model}", "tiny")
    check(steps)
