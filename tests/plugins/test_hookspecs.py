"""The hook specifications: their names, arguments and documentation."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pluggy
import pytest

from tinkex_sync.plugins import hookspecs
from tinkex_sync.plugins.events import Boundary, Source
from tinkex_sync.plugins.hookspecs import PREFIX, SPECS, argument_names
from tinkex_sync.plugins.registry import Observers

# Arguments of each hook that plugins may rely on. Add arguments here; remove none.
ARGUMENTS = {
    "session_opened": "",
    "session_closed": "",
    "heartbeat_missed": "misses silent_for error",
    "billing_paused": "waited limit error",
    "call_started": "operation items",
    "call_finished": "operation items outcome elapsed facts error",
    "client_created": "operation base_model rank model_path",
    "checkpoint_saved": "path kind ttl_seconds elapsed",
    "request_finished": (
        "method route path host attempt status elapsed sent_bytes received_bytes http_version server_request_id error"
    ),
    "retry_scheduled": "policy attempt delay cause",
    "queue_state_changed": "state previous reason reason_source waited request_id",
    "queue_state_repeated": "state reason reason_source waited request_id",
    "chunks_planned": "operation boundaries limits",
    "chunk_sent": "boundary body_bytes request_id elapsed",
    "adam_params_serialized": "params payload",
    "dispatch_acquired": "estimated_bytes charged_bytes throttled waited in_flight bytes_left waiting pace",
    "dispatch_released": "in_flight bytes_left waiting pace",
    "backoff_started": "duration until everyone",
    "future_resolved": "operation request_id outcome elapsed polls error",
}

ROOT = Path(__file__).parents[2]


def test_no_hook_and_no_argument_is_missing() -> None:
    events = {"tinkex_" + name: ("source", "call_id", *names.split()) for name, names in ARGUMENTS.items()}
    assert {name: argument_names(name) for name in SPECS} == {**events, "tinkex_register_commands": ("cli",)}


def test_observers_have_one_attribute_per_hook() -> None:
    attributes = set(vars(Observers(autoload=False, disabled=(), modules=())))
    assert {name[len(PREFIX) :] for name in SPECS} <= attributes


@pytest.mark.parametrize("name", SPECS)
def test_specification_documents_thread_arguments_and_version(name: str) -> None:
    text = inspect.getdoc(SPECS[name]) or ""
    summary, thread, arguments, version = text.split("\n\n")
    assert summary.endswith(".")
    assert thread.startswith("Thread: ")
    documented = re.findall(r"^    (\w+): ", arguments, re.MULTILINE)
    assert arguments.startswith("Args:\n")
    assert documented == list(argument_names(name))
    assert version == ".. versionadded:: 2026.11.0"


@pytest.mark.parametrize("name", SPECS)
def test_no_hook_stops_at_a_first_result_or_replays_calls(name: str) -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    caller = getattr(manager.hook, name)
    assert caller.spec is not None
    assert not caller.spec.opts["firstresult"]
    assert not caller.is_historic()


def test_source_is_immutable() -> None:
    source = Source("service", "s", "s")
    with pytest.raises(dataclasses.FrozenInstanceError):
        source.kind = "training"  # type: ignore[misc]


def test_boundary_is_a_named_tuple() -> None:
    assert Boundary(0, 10, 20, 1234) == (0, 10, 20, 1234)
    assert Boundary(index=0, start=10, stop=20, estimated_bytes=1234).index == 0


def test_reference_page_equals_the_specifications() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "hook_reference.py"), "--check"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_hook_benchmark_stays_within_ten_times_its_budgets() -> None:
    path = ROOT / "benchmarks" / "hooks.py"
    script = (
        f"import runpy; names = runpy.run_path({str(path)!r}, run_name='hooks'); main = names['main']\n"
        "budgets = names['BUDGETS']\n"
        "for name in budgets: budgets[name] *= 10\n"  # The machine may run other programs.
        "raise SystemExit(main(1000, 20))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no plugin" in done.stdout
    assert "3 plugins" in done.stdout


def test_every_hook_that_the_package_calls_is_specified() -> None:
    texts = [path.read_text("utf-8") for path in Path(hookspecs.__file__).parents[1].rglob("*.py")]
    names = {name for text in texts for name in re.findall(r"hook := [\w.]*observers\.(\w+)", text)}
    assert len(names) > 10
    assert {PREFIX + name for name in names} <= set(SPECS)
