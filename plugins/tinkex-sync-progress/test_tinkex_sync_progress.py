"""Tests of the installed distribution: ``pip install . ../.. pytest pyte && pytest``."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
from rich.console import Console
from tinkex_sync_progress import Progress
from tinkex_sync_progress.state import State
from tinkex_sync_progress.view import frame, sparkline

from tinkex_sync.local import Faults, LocalServer
from tinkex_sync.plugins import Observers, Source
from tinkex_sync.testing import assert_thread_safe, check_plugin

RUN = """
import sys
from tinkex_sync import ServiceClient, types
prompt, params = types.ModelInput.from_ints([1, 2, 3]), types.SamplingParams(max_tokens=4)
datum = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"target_tokens": [2, 3]})
with ServiceClient(base_url=sys.argv[1], api_key="local") as service:
    training = service.create_lora_training_client("tinkex/tiny", rank=2)
    for _ in range(12):
        training.train_step([datum], "cross_entropy", types.AdamParams(learning_rate=0.01))
    print("a line of the script")
    sampler = service.create_sampling_client(base_model="tinkex/tiny")
    for _ in sampler.sample_many([prompt] * 40, 1, params):
        pass
print("done")
"""


OTHERS = "dashboard,jsonl,otel,prometheus,trackers"
LABELS = ["tinkex_sync", "running", "rate", "throttle", "queue", "loss"]
REASON = "Your organization sends too many tokens"
WIDGET = "application/vnd.jupyter.widget-view+json"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def text_of(state: State, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(frame(state.snapshot()))
    written: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in written.splitlines())


@pytest.fixture(scope="module")
def server():
    with LocalServer() as running:
        yield running


def test_it_is_loaded_by_its_entry_point() -> None:
    assert metadata.version("tinkex-sync-progress")
    [status] = [status for status in Observers(strict=True).report() if status.name == "progress"]
    assert (status.distribution, status.status) == ("tinkex-sync-progress", "active")


def test_its_hooks_and_arguments_exist_and_it_is_thread_safe() -> None:
    assert not check_plugin(Progress(Console(file=io.StringIO())))
    assert_thread_safe(Progress(Console(file=io.StringIO())))


def test_a_frame_shows_calls_queue_rates_throttle_and_loss() -> None:
    clock = Clock()
    state = State(clock)
    for _ in range(4):
        state.start_call("sample")
    state.start_call("forward_backward")
    clock.now += 2
    facts = {"prompt_tokens": 9, "completion_tokens": 50, "stop_reasons": ["length"]}
    for _ in range(3):
        state.end_call("sample", "ok", facts)
    state.end_call("forward_backward", "ok", {"loss": 2.0, "tokens": 50})
    for loss in (1.5, 1.0):
        state.start_call("forward_backward")
        state.end_call("forward_backward", "ok", {"loss": loss})
    state.start_call("optim_step")
    state.end_call("optim_step", "error", {})
    state.start_call("optim_step")
    state.end_call("optim_step", "ok", {"step": 3})
    state.set_learning_rate(0.0001)
    state.use(7, 120)
    state.back_off(1.5)
    state.back_off(0.5)
    state.pause(Source("sampling", "s1", "s"), "paused_capacity", "too many [samples] in the queue", 63.0)
    clock.now += 2
    assert text_of(state).splitlines() == [
        "tinkex_sync  0:04, ended: 1 error, 7 ok",
        "running      1 sample",
        "rate         0.8 samples/s, 50 tokens/s",
        "throttle     7 samples being sent, 120 wait, 2 backoffs of 2.0 s",
        "queue        sampling paused_capacity for 1:05: too many [samples] in the queue",
        "loss         1 █▅▁ step 3, learning rate 0.0001",
    ]
    state.pause(Source("sampling", "s1", "s"), "active", None, 70.0)
    assert "queue" not in text_of(state)
    state.pause(Source("training", "t1", "s"), "paused_rate_limit", None, 0.0)
    state.end_session("s")
    assert "queue" not in text_of(state)


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    clock = Clock()
    state = State(clock)
    for seconds in range(60):
        clock.now = 100.0 + seconds
        for _ in range(5):
            state.start_call("sample")
            state.end_call("sample", "ok", {"completion_tokens": 8})
    assert "5.5 samples/s, 44 tokens/s" in text_of(state)
    clock.now += 11
    assert "samples/s" not in text_of(state)


@pytest.mark.parametrize(
    "values, bars", [([], ""), ([1.0], "▁"), ([3.0, 3.0], "▁▁"), ([0.0, 7.0], "▁█"), ([1.0, float("nan"), 2.0], "▁·█")]
)
def test_a_sparkline_has_a_bar_per_value(values: List[float], bars: str) -> None:
    assert sparkline(values) == bars


def test_a_narrow_terminal_shows_whole_texts() -> None:
    state = State(Clock())
    state.pause(Source("sampling", "s1", "s"), "paused_capacity", "words " * 20, 1.0)
    assert text_of(state, width=40).count("words") == 20


def environment(**variables: str) -> Dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TINKEX_SYNC_PROGRESS")}
    return {**kept, "TERM": "xterm-256color", "TINKEX_SYNC_DISABLED_PLUGINS": OTHERS, **variables}


def test_nothing_is_written_to_pipes(server: LocalServer) -> None:
    command = [sys.executable, "-W", "error", "-c", RUN, server.base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "a line of the script\ndone\n", "")


def lines_of(screen: Any) -> List[str]:
    return [line.rstrip() for line in screen.display if line.strip()]


def run_in_terminal(
    server: LocalServer, watch: Optional[Callable[[List[str]], None]] = None, **variables: str
) -> Tuple[List[str], bytes]:
    """Run the script in a pseudo terminal; return the lines of its screen at the end, and all that was written.

    Args:
        server: The server that the script uses.
        watch: Called with the lines of every screen.
        variables: Environment variables.
    """
    pty = pytest.importorskip("pty")
    pyte = pytest.importorskip("pyte")
    ours, theirs = pty.openpty()
    screen = pyte.Screen(100, 30)
    stream = pyte.ByteStream(screen)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN, server.base_url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(COLUMNS="100", LINES="30", **variables),
    )
    os.close(theirs)
    written, ends = b"", time.monotonic() + 120
    while time.monotonic() < ends:
        if not select.select([ours], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux reports the end of the other side as an error
            piece = b""
        if not piece:
            break
        written += piece
        stream.feed(piece)
        if watch is not None:
            watch(lines_of(screen))
    os.close(ours)
    assert process.wait(20) == 0, written.decode()
    return lines_of(screen), written


def test_a_terminal_shows_the_run(server: LocalServer) -> None:
    lines, written = run_in_terminal(server)
    assert lines[0] == "a line of the script"
    assert lines[-1] == "done"
    shown = {line.partition(" ")[0]: line for line in lines[1:-1]}
    assert "ok" in shown["tinkex_sync"] and "error" not in shown["tinkex_sync"]
    assert shown["running"].split() == ["running", "none"]
    assert "step 12" in shown["loss"] and "learning rate 0.01" in shown["loss"]
    assert b"\x1b[?25l" in written and b"\x1b[?25h" in written  # the cursor is hidden, and shown at the end


def test_a_terminal_shows_a_pause_and_backoffs_while_they_last() -> None:
    refusing = Faults(admit_per_second=10, admit_burst=12)
    pausing = replace(refusing, pause=600.0, pause_kind="sampling", pause_state="paused_rate_limit", pause_hold=0.3)
    full: List[List[str]] = []

    def watch(screen: List[str]) -> None:
        if set(LABELS) - {"rate"} <= set(labels(screen)):
            full.append(screen)
            if re.search(r"for 0:0[2-9]|for 0:[1-5]", "".join(screen)):
                server.set_faults(refusing)  # the pause ends

    with LocalServer(faults=replace(pausing, pause_reason=REASON)) as server:
        lines, _ = run_in_terminal(server, watch)
    assert full, lines
    assert not [line for line in lines if line.startswith("queue")]
    assert [line for line in lines if re.match(r"rate +[\d.,]+ samples/s, ", line)]
    shown = {line.partition(" ")[0]: line for line in full[-1]}
    queue = rf"queue +sampling paused_rate_limit for 0:\d\d: {REASON}"
    assert re.fullmatch(queue, shown["queue"])
    assert re.fullmatch(r"running +\d+ sample", shown["running"])
    assert re.search(r"[1-9]\d* backoffs of [\d.]+ s$", shown["throttle"])
    if "TINKEX_SYNC_SCREEN" in os.environ:
        Path(os.environ["TINKEX_SYNC_SCREEN"]).write_text("\n\n".join(map("\n".join, full)), "utf-8")
    # The sample of the README is a screen of this test.
    readme = Path(__file__).with_name("README.md").read_text("utf-8")
    sample = readme.partition("```text\n")[2].partition("\n```")[0].splitlines()
    assert labels(sample) == LABELS
    assert re.fullmatch(queue, sample[LABELS.index("queue")])


def labels(screen: List[str]) -> List[str]:
    """Return the first words of the lines of the view."""
    return [line.partition(" ")[0] for line in screen if line.partition(" ")[0] in LABELS]


@pytest.mark.parametrize("variables", [{"CI": "true"}, {"TINKEX_SYNC_PROGRESS": "off"}, {"TERM": "dumb"}])
def test_a_terminal_shows_nothing_if_it_is_turned_off(server: LocalServer, variables: Dict[str, str]) -> None:
    assert run_in_terminal(server, **variables)[0] == ["a line of the script", "done"]


def test_the_view_ends_with_the_last_of_several_clients() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, legacy_windows=False)
    environ = os.environ.pop("CI", None)
    try:
        first, second = Progress(console), Progress(console)
    finally:
        if environ is not None:
            os.environ["CI"] = environ
    for plugin in (first, second):
        plugin.tinkex_call_started("sample")
    first.close()
    second.tinkex_call_finished("sample", "ok", {})
    hidden, shown = "\x1b[?25l", "\x1b[?25h"
    assert hidden in console.file.getvalue() and shown not in console.file.getvalue()  # type: ignore[attr-defined]
    second.close()
    second.close()
    assert console.file.getvalue().count(shown) == 1  # type: ignore[attr-defined]


def test_a_notebook_shows_the_run(server: LocalServer, tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(RUN.replace("sys.argv[1]", repr(server.base_url)))]
    )
    client = nbclient.NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    before = dict(os.environ)
    os.environ.update(environment())
    os.environ.pop("CI", None)
    try:
        client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    if find_spec("ipywidgets") is None:
        assert "pip install ipywidgets" in str(book.cells[0].outputs)
        return
    [widget] = [one.data[WIDGET]["model_id"] for one in book.cells[0].outputs if WIDGET in one.get("data", {})]
    state = book.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"][widget]["state"]
    assert "step 12" in str(state["outputs"])
