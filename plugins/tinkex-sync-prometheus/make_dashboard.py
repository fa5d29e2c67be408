"""Write the Grafana dashboard: ``python make_dashboard.py``. A panel is one line of the table."""

# ruff: noqa: E501

import json
from pathlib import Path

PANELS = (
    ("Calls per second by outcome", "sum by (operation, outcome) (rate(tinkex_calls_total[$__rate_interval]))"),
    ("Time of calls, 95th percentile", "histogram_quantile(0.95, sum by (le, operation) (rate(tinkex_call_seconds_bucket[$__rate_interval])))"),
    ("Calls in flight", "sum by (operation) (tinkex_calls_in_flight)"),
    ("Requests per second by status", "sum by (route, status) (rate(tinkex_requests_total[$__rate_interval]))"),
    ("Retries per second", "sum by (policy, cause) (rate(tinkex_retries_total[$__rate_interval]))"),
    ("Tokens per second", "sum by (kind) (rate(tinkex_tokens_total[$__rate_interval]))"),
    ("Loss", "tinkex_loss"),
    ("Parameters of the optimizer", "tinkex_adam_params"),
    ("Seconds in queue states per minute", "sum by (state, reason) (rate(tinkex_queue_state_seconds_total[$__rate_interval])) * 60"),
    ("Clients paused", "tinkex_clients_paused"),
    ("Samples in flight and waiting", "tinkex_dispatch_in_flight or tinkex_dispatch_waiting"),
    ("Byte budget", "tinkex_dispatch_bytes_in_use or tinkex_dispatch_bytes_left"),
    ("Pace, samples per second", "tinkex_pace < Inf"),
    ("Backoffs per minute", "sum by (scope) (rate(tinkex_backoffs_total[$__rate_interval])) * 60"),
    ("Size of chunks, mean", "sum by (size) (rate(tinkex_chunk_bytes_sum[$__rate_interval])) / sum by (size) (rate(tinkex_chunk_bytes_count[$__rate_interval]))"),
    ("Age of the last heartbeat, seconds", "time() - tinkex_last_heartbeat_timestamp_seconds"),
    ("Heartbeats missed", "increase(tinkex_heartbeats_missed_total[$__rate_interval])"),
)  # fmt: skip


def main() -> None:
    """Write the dashboard beside the plugin."""
    panels = [
        {
            "id": number + 1,
            "title": title,
            "type": "timeseries",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
            "targets": [{"refId": "A", "expr": query}],
        }
        for number, (title, query) in enumerate(PANELS)
    ]
    board = {
        "title": "tinkex_sync",
        "uid": "tinkex-sync",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }
    path = Path(__file__).parent / "tinkex_sync_prometheus/grafana.json"
    path.write_text(json.dumps(board, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
