"""Tests of the page in headless Chromium: ``tox -e browser``.

They need the package playwright and Debian's chromium. TINKEX_CHROMIUM is the path of the browser; default:
/usr/bin/chromium. With TINKEX_SCREENSHOTS=FOLDER the tests also write the pictures of the README.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from tinkex_sync_dashboard.recordings import replay
from tinkex_sync_dashboard.runs import Runs
from tinkex_sync_dashboard.server import DashboardServer
from tinkex_sync_jsonl import JsonLines

from tinkex_sync import ServiceClient, types
from tinkex_sync.plugins import Boundary, Source
from tinkex_sync.testing import Faults, LocalServer

sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is missing: tox -e browser")

CHROMIUM = os.environ.get("TINKEX_CHROMIUM", "/usr/bin/chromium")
PHONE = {"width": 390, "height": 844}


def train(file: Path, seed: int, learning_rate: float) -> None:
    """Record a run of training and sampling with pauses, 429s and errors of the server."""
    random_text = random.Random(seed)
    with (
        LocalServer() as server,
        ServiceClient(
            base_url=server.base_url, api_key="local", load_plugins=False, plugins=[JsonLines(str(file))]
        ) as service,
    ):
        training = service.create_lora_training_client("tinkex/tiny", rank=8, seed=seed)
        for step in range(24):
            texts = [[random_text.randrange(97, 123) for _ in range(40)] * 3 for _ in range(12)]
            if step == 8:
                faults = Faults(
                    pause=2.5, pause_state="paused_rate_limit", pause_reason="concurrent LoRA rate limit hit"
                )
                server.set_faults(faults)
            if step == 12:
                server.set_faults(Faults(fail_first={"forward_backward": [503, 500]}))
            params = types.AdamParams(learning_rate * (1 - step / 30), weight_decay=0.01, grad_clip_norm=1.0)
            training.train_step([_datum(text) for text in texts], "cross_entropy", params)
        sampler = training.save_weights_and_get_sampling_client()
        server.set_faults(Faults(admit_per_second=60, admit_burst=30, latency={"asample": 0.05}))
        prompts = [types.ModelInput.from_ints([97 + number % 26]) for number in range(200)]
        list(sampler.sample_many(prompts, 1, types.SamplingParams(max_tokens=12)))
        server.set_faults(Faults(pause=1.5, pause_reason="The server has no free capacity"))
        sampler.sample(prompts[0], 1, types.SamplingParams(max_tokens=4))
        with pytest.raises(Exception, match="404"):
            service.create_rest_client().get_training_run("no-such-run")


def _datum(text: List[int]) -> types.Datum:
    return types.Datum(model_input=types.ModelInput.from_ints(text[:-1]), loss_fn_inputs={"target_tokens": text[1:]})


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    files = [folder / "low-rate.jsonl", folder / "high-rate.jsonl"]
    threads = [threading.Thread(target=train, args=(file, 1, rate)) for file, rate in zip(files, (3e-3, 2e-2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return files


@pytest.fixture
def dashboard() -> Iterator[DashboardServer]:
    server = DashboardServer(Runs())
    yield server
    server.close()


@pytest.fixture
def recorded(dashboard: DashboardServer, recordings: List[Path]) -> DashboardServer:
    for file in recordings:
        assert replay(file, dashboard.runs, threading.Event(), follow=False) == 0
    return dashboard


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """A function that opens an address and fails the test for every error that the browser reports."""
    contexts: List[Any] = []
    problems: List[str] = []

    def open_page(url: str, **settings: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: None if sent.url.startswith(url) else problems.append(f"left: {sent.url}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def figure(page: Any, title: str) -> Any:
    return page.locator(f"figure:has(figcaption:text('{title}'))").first


def take_screenshot(page: Any, name: str) -> None:
    folder = os.environ.get("TINKEX_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / name))


def test_recorded_runs_are_shown_side_by_side_with_all_their_charts(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url)
    page.wait_for_selector(".run canvas")
    assert page.locator(".run").count() == 2
    assert page.locator("#connection").inner_text() == "Connected"
    shown = page.locator(".run").first.locator("figure:visible figcaption").all_inner_texts()
    for title in ("Loss", "Learning rate", "Weight decay", "Gradient clip norm", "Pauses over time", "Dispatch pace"):
        assert any(text.startswith(title) for text in shown), (title, shown)
    for title in ("Slots", "Bytes in flight", "Bytes of the latest chunks", "Tokens", "Calls", "HTTP requests"):
        assert any(text.startswith(title) for text in shown), (title, shown)
    texts = page.locator(".run").first.inner_text()
    assert "concurrent LoRA rate limit hit" in texts
    assert "no-such-run" in texts
    boxes = [box.bounding_box() for box in page.locator(".run").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] != boxes[1]["x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_scheme_of_the_system(scheme: str, recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url, color_scheme=scheme)
    page.wait_for_selector(".run canvas")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(244, 245, 247)", "dark": "rgb(17, 21, 27)"}[scheme]
    take_screenshot(page, f"dashboard-{scheme}.png")


def test_a_changed_scheme_draws_the_charts_again(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url, color_scheme="light")
    page.wait_for_selector(".run canvas")
    before = page.locator(".run canvas").first.evaluate("canvas => canvas.toDataURL()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("before => document.querySelector('.run canvas').toDataURL() !== before", arg=before)


def test_a_phone_shows_everything_without_scrolling_sideways(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url, viewport=PHONE, device_scale_factor=2, has_touch=True, is_mobile=True)
    page.wait_for_selector(".run canvas")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    take_screenshot(page, "dashboard-phone.png")
    boxes = [box.bounding_box() for box in page.locator(".run").all()]
    assert boxes[0]["x"] == boxes[1]["x"]


def test_charts_are_read_with_the_keyboard(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url)
    page.wait_for_selector(".run canvas")
    chart = figure(page, "Loss").locator(".plot")
    assert "Chart: Loss by pass by Pass" in chart.get_attribute("aria-label")
    chart.focus()
    page.keyboard.press("Home")
    assert chart.get_attribute("aria-valuetext").startswith("Pass 1: forward_backward")
    page.keyboard.press("ArrowRight")
    assert chart.get_attribute("aria-valuetext").startswith("Pass 2:")
    page.keyboard.press("End")
    assert chart.get_attribute("aria-valuetext").startswith("Pass 24:")
    shown = figure(page, "Loss").locator(".u-legend").inner_text()
    assert "24" in shown
    for key in ("+", "-", "Escape"):
        page.keyboard.press(key)


def test_values_of_a_chart_are_shown_as_a_table(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url)
    page.wait_for_selector(".run canvas")
    summary = figure(page, "Learning rate").locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    table = figure(page, "Learning rate").locator("table.values")
    assert table.locator("tbody tr").count() == 24
    assert table.locator("tbody tr").last.locator("td").all_inner_texts() == ["1", "0.003"]


def test_every_control_has_a_name_and_every_table_a_caption(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url)
    page.wait_for_selector(".run canvas")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, a, [tabindex='0'], [role=img]")]
        .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
        .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.querySelectorAll('table.values')].every((one) => one.caption?.innerText)")
    assert page.locator("h1").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"


def test_runs_are_chosen_with_check_boxes(recorded: DashboardServer, open_page: Any) -> None:
    page = open_page(recorded.url)
    page.wait_for_selector(".run canvas")
    boxes = page.locator("#choices input")
    assert [box.is_checked() for box in boxes.all()] == [True, True]
    boxes.first.focus()
    page.keyboard.press("Space")
    assert page.locator(".run").count() == 1
    page.keyboard.press("Space")
    assert page.locator(".run h2").first.inner_text().startswith("low-rate.jsonl")


SOURCE = Source("training", "model-1", "session-1")


def events_of_step(step: int, now: float) -> List[Any]:
    """The events of one pass and one step, as many as a small real step has."""
    base: Dict[str, Any] = {"source": SOURCE, "call_id": f"c{step}"}
    boundary = Boundary(0, 0, 8, 8000)
    request = {"method": "POST", "route": "/r", "path": "/r", "status": 200, "sent_bytes": 9000, "received_bytes": 900}
    result = {"loss": 1 / (step + 1), "tokens": 960, "metrics": {"loss:sum": 1.0}}
    finished = {"operation": "forward_backward", "outcome": "ok", "facts": result, "error": None}
    payload = {"learning_rate": 1e-3, "weight_decay": 0.0, "grad_clip_norm": 1.0}
    return [
        (now, "call_started", {**base, "operation": "forward_backward", "items": 8}),
        (now, "chunks_planned", {**base, "operation": "forward_backward", "boundaries": [boundary], "limits": {}}),
        (now, "chunk_sent", {**base, "boundary": boundary, "body_bytes": 7600}),
        *[(now, "request_finished", {**base, **request, "error": None})] * 6,
        (now, "adam_params_serialized", {**base, "payload": payload}),
        (now, "call_finished", {**base, **finished}),
    ]


def test_the_page_follows_a_run_of_more_than_10000_events_a_minute(dashboard: DashboardServer, open_page: Any) -> None:
    page = open_page(dashboard.url)
    page.wait_for_selector("#empty:visible")
    total, start = 0, time.time()
    for step in range(2000):
        events = events_of_step(step, start + step * 0.03)
        total += len(events)
        dashboard.runs.add("", events)
        if step % 20 == 0:
            page.wait_for_timeout(10)
    # 22,000 events of one minute have been added in a few seconds. The page shows the last one within 5 seconds.
    page.wait_for_function(
        "text => document.querySelector('.tiles')?.innerText.includes(text)", arg="Steps\n2000", timeout=5000
    )
    assert total >= 20_000


def test_texts_of_servers_are_not_markup(dashboard: DashboardServer, open_page: Any) -> None:
    page = open_page(dashboard.url)
    text = "<img src=x onerror=document.title='changed'>"
    facts = {"source": SOURCE, "call_id": "", "state": "paused_capacity", "previous": None, "reason": text}
    dashboard.runs.add("", [(time.time(), "queue_state_changed", {**facts, "reason_source": "server", "waited": 0.0})])
    page.wait_for_selector(f"td:text({text!r})")
    assert text in page.locator("dd.warn").first.inner_text()
    assert page.title() == "tinkex_sync dashboard"
    assert text in page.locator("#announcements").text_content()


def test_paused_updates_resume_with_the_newest_values(dashboard: DashboardServer, open_page: Any) -> None:
    page = open_page(dashboard.url)
    dashboard.runs.add("", events_of_step(0, time.time()))
    page.wait_for_selector(".run canvas")
    page.click("#pause")
    with page.expect_event("console") as received:
        page.evaluate(
            "new EventSource('events').addEventListener('update', (e) => e.data.includes('22') && console.log('got'))"
        )
        dashboard.runs.add("", events_of_step(1, time.time()))
    assert received.value.text == "got"
    assert "Steps\n1" in page.locator(".tiles").inner_text()
    page.click("#pause")
    page.wait_for_function("() => document.querySelector('.tiles').innerText.includes('Steps\\n2')")


def test_the_page_says_that_the_program_has_ended(dashboard: DashboardServer, open_page: Any) -> None:
    page = open_page(dashboard.url)
    page.wait_for_selector("#connection[data-state=live]")
    dashboard.close()
    page.wait_for_selector("#connection[data-state=lost]")
    assert "last state" in page.locator("#connection").inner_text()
