"""A twentieth of the fault bench: every answer arrives exactly once under each fault. The report runs all of it."""

import sys

import pytest
from fault_proxy import FaultProxy
from fault_report import WORKLOADS, bench_section, line_chart
from fault_soak import soak
from fault_table import FAULTS, MIX
from fault_workloads import expected

from tinkex_sync.local import LocalServer

SAMPLES, OPERATIONS = 500, 100

pytestmark = pytest.mark.skipif(
    sys.version_info[:2] not in ((3, 9), (3, 13)), reason="the fault bench runs on the oldest and the newest Python"
)


@pytest.fixture(scope="module")
def server():
    with LocalServer() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(server):
    with FaultProxy(server.base_url) as running:
        yield running


@pytest.fixture(scope="module")
def right(server):
    return expected(server.base_url, OPERATIONS // 8)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [*FAULTS, MIX])
def test_every_operation_is_answered_and_applied_exactly_once(server, proxy, right, fault):
    for run, count in zip(WORKLOADS, (SAMPLES, SAMPLES, OPERATIONS)):
        row = run(proxy, server, fault, count, right)
        assert row.hit > 0, row
        assert (row.lost, row.doubled, row.threads_left, row.sockets_left) == (0, 0, 0, 0), row


def test_a_short_soak_leaves_nothing_behind():
    found = soak(hours=0.5)
    assert found["done"]["samples"] > 0 and found["done"]["steps"] > 0
    assert found["left"]["threads"] == 0
    assert max(row[2] for row in found["rows"]) < 300


def test_the_page_has_a_row_for_each_fault():
    row = {"work": "samples, x", "operations": 10, "lost": 0, "doubled": 0, "seconds": 1.0, "requests": 20, "hit": 2}
    row.update(threads_left=0, sockets_left=0, memory=0.5)
    text = bench_section(
        {"date": "d", "machine": "m", "found": {"reset_after": [row], "mix": [row]}}, write=lambda *_: 0
    )
    assert (
        "0 lost or wrong" in text
        and "| reset after | the connection is reset" in text
        and "| mix | all of these" in text
    )
    assert line_chart("t", [(0.0, 1.0), (2.0, 3.0)]).count("<polyline") == 1
