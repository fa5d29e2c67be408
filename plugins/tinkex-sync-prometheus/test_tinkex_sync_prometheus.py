"""Tests of the installed distribution: ``pip install . ../.. pytest && pytest``."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Dict

import pytest
import tinkex_sync_prometheus
from prometheus_client import CollectorRegistry, generate_latest
from tinkex_sync_prometheus import Prometheus, dashboard

from tinkex_sync import ServiceClient, TinkexError, types
from tinkex_sync.local import Faults, LocalServer
from tinkex_sync.plugins import Observers
from tinkex_sync.testing import check_plugin

DATUM = types.Datum(model_input=types.ModelInput.from_ints([1, 2, 3]), loss_fn_inputs={"target_tokens": [2, 3, 4]})
PARAMS = types.SamplingParams(max_tokens=2)
RUN = """
import sys
from tinkex_sync import ServiceClient, types
datum = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
with ServiceClient(base_url=sys.argv[1], api_key="local") as service:
    training = service.create_lora_training_client("tinkex/tiny", rank=2)
    training.train_step([datum] * 3, "cross_entropy", types.AdamParams(learning_rate=0.5, weight_decay=0.1))
"""
READ = """
import urllib.request
print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[2]}/metrics").read().decode())
"""


def values(text: str) -> Dict[str, float]:
    """Return the samples of an exposition, without buckets and times of creation."""
    rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in rows if "_bucket" not in name and "_created" not in name}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server():
    with LocalServer() as running:
        yield running


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_it_is_loaded_by_its_entry_point() -> None:
    assert metadata.version("tinkex-sync-prometheus")
    [status] = [status for status in Observers(strict=True).report() if status.name == "prometheus"]
    assert (status.distribution, status.status) == ("tinkex-sync-prometheus", "active")


def test_a_run_is_counted(server: LocalServer, registry: CollectorRegistry) -> None:
    plugin = Prometheus(registry)
    with ServiceClient(
        base_url=server.base_url,
        api_key="local",
        plugins=[plugin],
        load_plugins=False,
        strict_plugins=True,
        retry_for=1.0,
    ) as service:
        training = service.create_lora_training_client("tinkex/tiny", rank=2)
        training.train_step([DATUM] * 3, "cross_entropy", types.AdamParams(learning_rate=0.5, grad_clip_norm=2.0))
        training.save_state("a")
        sampler = service.create_sampling_client(base_model="tinkex/tiny")
        list(sampler.sample_many([types.ModelInput.from_ints([1, 2])] * 5, 1, PARAMS))
        server.set_faults(Faults(fail_first={"asample": [503, 400]}))
        with pytest.raises(TinkexError):
            sampler.sample(types.ModelInput.from_ints([1]), 1, PARAMS)
        service.create_rest_client().get_sampler(sampler.sampling_session_id)
        server.set_faults(Faults())
    found = values(generate_latest(registry).decode())
    assert found['tinkex_calls_total{client="training",operation="forward_backward",outcome="ok"}'] == 1
    assert found['tinkex_calls_total{client="sampling",operation="sample",outcome="ok"}'] == 5
    assert found['tinkex_calls_total{client="sampling",operation="sample",outcome="error"}'] == 1
    assert sum(value for name, value in found.items() if name.startswith("tinkex_calls_in_flight")) == 0
    assert found['tinkex_tokens_total{kind="prompt"}'] == 10
    assert 5 <= found['tinkex_tokens_total{kind="completion"}'] <= 10
    assert found['tinkex_tokens_total{kind="training"}'] == 9
    assert found["tinkex_datums_total"] == 3
    assert found["tinkex_optimizer_steps_total"] == 1
    assert found['tinkex_loss{loss_fn="cross_entropy",model=""}'] > 0
    assert found['tinkex_adam_params{model="",parameter="learning_rate"}'] == 0.5
    assert found['tinkex_adam_params{model="",parameter="grad_clip_norm"}'] == 2.0
    assert found['tinkex_checkpoints_total{kind="training"}'] == 1
    assert found['tinkex_retries_total{cause="InternalServerError",policy="sampling"}'] == 1
    assert found['tinkex_requests_total{method="POST",route="/api/v1/asample",status="503"}'] == 1
    assert found['tinkex_requests_total{method="GET",route="/api/v1/samplers/{sampler}",status="200"}'] == 1
    assert found["tinkex_dispatch_in_flight"] == found["tinkex_dispatch_bytes_in_use"] == 0
    assert found["tinkex_pace"] == float("inf")
    assert found["tinkex_dispatch_wait_seconds_count"] >= 6
    assert found['tinkex_chunk_bytes_count{size="actual"}'] == 1
    assert not any(training.model_id in name or sampler.sampling_session_id in name for name in found)


def source(kind: str = "training", name: str = "m") -> SimpleNamespace:
    return SimpleNamespace(kind=kind, id=name, session_id="s")


def test_time_in_queue_states_is_counted_once(registry: CollectorRegistry) -> None:
    plugin = Prometheus(registry)
    plugin.tinkex_queue_state_changed(source(), "paused_capacity", "full", 1.0)
    plugin.tinkex_queue_state_repeated(source(), 61.0)
    plugin.tinkex_queue_state_changed(source(), "paused_rate_limit", "limit", 71.0)
    assert values(generate_latest(registry).decode())["tinkex_clients_paused"] == 1
    plugin.tinkex_queue_state_changed(source(), "active", None, 75.0)
    found = values(generate_latest(registry).decode())
    name = "tinkex_queue_state_seconds_total"
    assert found[f'{name}{{client="training",reason="full",state="paused_capacity"}}'] == 70.0
    assert found[f'{name}{{client="training",reason="limit",state="paused_rate_limit"}}'] == 4.0
    assert found["tinkex_clients_paused"] == 0


def test_reasons_of_a_server_make_a_bounded_number_of_series(registry: CollectorRegistry) -> None:
    plugin = Prometheus(registry)
    for number in range(100):
        plugin.tinkex_queue_state_changed(source(name=str(number)), "paused_capacity", f"queue position {number}", 0.0)
        plugin.tinkex_queue_state_changed(source(name=str(number)), "active", None, 1.0)
    rows = [name for name in values(generate_latest(registry).decode()) if "queue_state_seconds" in name]
    assert len(rows) == tinkex_sync_prometheus.MOST_VALUES + 1
    assert any('reason="other"' in name for name in rows)


def test_bytes_in_use_pace_and_the_last_heartbeat(registry: CollectorRegistry) -> None:
    plugin = Prometheus(registry)
    began = time.time()
    usage = {"in_flight": 1, "bytes_left": 5, "waiting": 0}
    plugin.tinkex_dispatch_acquired("a", 100, 0.0, **usage, pace=None)
    plugin.tinkex_dispatch_acquired("b", 30, 0.0, **usage, pace=2.5)
    plugin.tinkex_dispatch_released("a", **usage, pace=2.5)
    heartbeat = {"method": "POST", "route": "/api/v1/session_heartbeat", "elapsed": 0.1}
    plugin.tinkex_request_finished(**heartbeat, status=503, error=OSError("no"))
    found = values(generate_latest(registry).decode())
    assert (found["tinkex_dispatch_bytes_in_use"], found["tinkex_pace"]) == (30, 2.5)
    assert found["tinkex_last_heartbeat_timestamp_seconds"] == 0
    plugin.tinkex_request_finished(**heartbeat, status=200, error=None)
    assert values(generate_latest(registry).decode())["tinkex_last_heartbeat_timestamp_seconds"] >= began


def test_models_are_labels_only_on_request(registry: CollectorRegistry) -> None:
    params = types.AdamParams()
    Prometheus(registry, with_ids=True).tinkex_adam_params_serialized(source(), params)
    assert 'model="m"' in generate_latest(registry).decode()


def test_clients_of_a_process_share_the_metrics(registry: CollectorRegistry) -> None:
    for _ in range(2):
        Prometheus(registry).tinkex_heartbeat_missed(12.0)
    assert values(generate_latest(registry).decode())["tinkex_heartbeats_missed_total"] == 2


def test_the_metrics_are_scraped_over_http(server: LocalServer) -> None:
    port = free_port()
    script = (
        RUN
        + "    import urllib.request\n    print(urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[2]}').read().decode())"
    )
    environment = {**os.environ, "TINKEX_SYNC_PROMETHEUS_PORT": str(port)}
    command = [sys.executable, "-c", script, server.base_url, str(port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert values(done.stdout)['tinkex_adam_params{model="",parameter="weight_decay"}'] == 0.1


def test_processes_are_added_up_in_multiprocess_mode(server: LocalServer, tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", RUN, server.base_url], env=environment, timeout=120, check=True)
    environment["TINKEX_SYNC_PROMETHEUS_PORT"] = str(port)
    script = "import sys; import tinkex_sync_prometheus; tinkex_sync_prometheus.Prometheus()" + READ
    command = [sys.executable, "-c", script, server.base_url, str(port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert values(done.stdout)["tinkex_datums_total"] == 6


def test_every_metric_of_the_dashboard_exists(registry: CollectorRegistry) -> None:
    Prometheus(registry)
    known = {family.name for family in registry.collect()}
    queries = [target["expr"] for panel in json.loads(dashboard())["panels"] for target in panel["targets"]]
    assert len(queries) >= 12
    used = {
        re.sub(r"_(total|bucket|sum|count)$", "", name)
        for query in queries
        for name in re.findall(r"tinkex_\w+", query)
    }
    assert used <= known


def test_the_client_can_call_all_its_hooks() -> None:
    check_plugin(Prometheus(CollectorRegistry()))


def test_the_server_answers_on_the_loopback_interface_only(registry: CollectorRegistry) -> None:
    port = free_port()
    Prometheus(registry, port=port)
    Prometheus(registry, port=port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert response.status == 200
    with socket.socket() as other:
        other.settimeout(2.0)
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_a_port_that_is_taken_costs_no_metrics(registry: CollectorRegistry) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.warns(RuntimeWarning, match="metrics are not served by this process"):
            plugin = Prometheus(registry, port=taken.getsockname()[1])
    plugin.tinkex_heartbeat_missed(3.0)
    assert values(generate_latest(registry).decode())["tinkex_heartbeats_missed_total"] == 1


@pytest.mark.parametrize("port", ["abc", "0", "70000"])
def test_a_wrong_port_is_refused_with_the_name_of_the_variable(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("TINKEX_SYNC_PROMETHEUS_PORT", port)
    with pytest.raises(ValueError, match="TINKEX_SYNC_PROMETHEUS_PORT must be a port from 1 to 65535"):
        Prometheus(CollectorRegistry())
