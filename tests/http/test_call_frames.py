"""The number of frames between a public method and requests, measured on the embedded server."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "call_frames.py"


@pytest.fixture(scope="module")
def call_frames():
    spec = importlib.util.spec_from_file_location("call_frames", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(call_frames):
    return call_frames.record()


@pytest.mark.parametrize(
    ("method", "endpoints"),
    [("sample", {"asample", "retrieve_future"}), ("train_step", {"forward_backward", "optim_step", "retrieve_future"})],
)
def test_at_most_ten_frames_lie_between_a_method_and_requests(call_frames, recorded, method, endpoints):
    sent = recorded[method]
    assert {one.endpoint for one in sent} == endpoints
    assert not {one.endpoint: one.frames for one in sent if len(one.frames) > call_frames.MOST_FRAMES}


def test_requests_are_sent_by_the_callers_thread_and_by_the_lane(recorded):
    assert {one.thread for one in recorded["sample"]} == {"MainThread"}
    posts = [one for one in recorded["train_step"] if one.endpoint != "retrieve_future"]
    assert all(one.thread.startswith("tinkex-lane-") for one in posts)


def test_the_page_of_the_architecture_shows_the_real_frames(call_frames, recorded):
    page = call_frames.PAGE.read_text("utf-8")
    assert call_frames.describe(recorded) in page, "run python benchmarks/call_frames.py --page"
