"""Counters of the server."""

from tinkex_sync.local.stats import COUNTERS, Stats


def test_snapshot_contains_every_counter_from_the_start():
    snapshot = Stats().snapshot()
    assert {name: snapshot[name] for name in COUNTERS} == dict.fromkeys(COUNTERS, 0)


def test_counts_appear_in_the_snapshot():
    stats = Stats()
    stats.add("optim_steps", 3)
    stats.count_request("/api/v1/asample", "200")
    stats.count_request("/api/v1/asample", "429")
    stats.count_chunk("m", 2)
    stats.count_heartbeat("s")
    for _ in range(2):
        stats.poll_started()
    stats.poll_ended()
    snapshot = stats.snapshot()
    assert snapshot["optim_steps"] == 3
    assert snapshot["requests"] == {"/api/v1/asample": {"200": 1, "429": 1}}
    assert (snapshot["chunks"], snapshot["heartbeats"]) == ({"m": [2]}, {"s": 1})
    assert (snapshot["polls"], snapshot["max_polls"]) == (1, 2)


def test_snapshot_is_not_changed_by_later_counts():
    stats = Stats()
    stats.count_chunk("m", 2)
    snapshot = stats.snapshot()
    stats.count_chunk("m", 5)
    assert snapshot["chunks"] == {"m": [2]}
