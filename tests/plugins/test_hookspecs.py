from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pluggy
import pytest

from tinkex_sync.plugins import hookspecs
from tinkex_sync.plugins.hookspecs import SPECS, Boundary, Source, argument_names
from tinkex_sync.plugins.registry import Observers

# The promise to plugin authors: an argument may be added here, none may go.
PROMISED = {
    "session_opened": "",
    "session_closed": "",
    "heartbeat_missed": "misses silent_for error",
    "billing_paused": "waited limit error",
    "call_started": "operation items",
    "request_finished": "method path attempt status elapsed sent_bytes received_bytes error",
    "retry_scheduled": "policy attempt delay cause",
    "queue_state_changed": "state previous reason reason_source waited request_id",
    "queue_state_repeated": "state reason reason_source waited request_id",
    "chunks_planned": "operation boundaries limits",
    "chunk_sent": "boundary body_bytes request_id elapsed",
    "adam_params_serialized": "params payload",
    "dispatch_acquired": "estimated_bytes charged_bytes throttled waited in_flight bytes_left",
    "dispatch_released": "",
    "backoff_started": "duration until everyone",
    "future_resolved": "operation request_id outcome elapsed polls error",
}

ROOT = Path(__file__).parents[2]


def test_the_hooks_are_those_promised() -> None:
    events = {"tinkex_" + name: ("source", "call_id", *names.split()) for name, names in PROMISED.items()}
    assert {name: argument_names(name) for name in SPECS} == {**events, "tinkex_register_commands": ("cli",)}


def test_every_hook_has_an_attribute_in_observers_and_no_attribute_is_without_a_hook() -> None:
    attributes = [name for name, hint in Observers.__annotations__.items() if "Hook" in hint]
    assert sorted("tinkex_" + name for name in attributes) == sorted(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_a_hook_says_when_in_which_thread_what_each_argument_is_and_since_when(name: str) -> None:
    text = SPECS[name].__doc__ or ""
    summary, thread = text.split("\n\n")[:2]
    assert summary.endswith(".")
    assert thread.strip().startswith("Thread: ")
    documented = [line.split(":")[1].split()[1] for line in text.splitlines() if ":param " in line]
    assert documented == list(argument_names(name))
    assert ".. versionadded:: 0.7.0" in text


@pytest.mark.parametrize("name", SPECS)
def test_no_hook_can_stop_at_a_first_result_or_replay_old_calls(name: str) -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    caller = getattr(manager.hook, name)
    assert caller.spec is not None
    assert not caller.spec.opts["firstresult"]
    assert not caller.is_historic()


def test_a_source_cannot_be_changed() -> None:
    source = Source("service", "s", "s")
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.kind = "training"  # type: ignore[misc]


def test_a_boundary_is_a_plain_tuple_with_names() -> None:
    assert Boundary(0, 10, 20, 1234) == (0, 10, 20, 1234)
    assert Boundary(index=0, start=10, stop=20, estimated_bytes=1234).index == 0


def test_the_reference_in_the_docs_is_what_the_specifications_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "hook_reference.py"), "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_benchmark_of_the_hooks_runs_and_stays_within_ten_times_its_budgets() -> None:
    path = ROOT / "benchmarks" / "hooks.py"
    script = (
        f"import runpy; names = runpy.run_path({str(path)!r}, run_name='hooks'); main = names['main']\n"
        "budgets = names['BUDGETS']\n"
        "for name in budgets: budgets[name] *= 10\n"  # this machine may be busy
        "raise SystemExit(main(1000, 20))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no plugin" in done.stdout
    assert "3 plugins" in done.stdout
