"""The order and the context of the checks. The checks themselves run in test_command.py."""

from tinkex_sync.cli.doctor.checks import CHECKS, CheckContext
from tinkex_sync.config import Config


def test_checks_are_in_the_order_in_which_a_connection_is_made():
    names = [check.name for check in CHECKS]
    assert names == [
        "configuration",
        "proxy",
        "DNS",
        "TCP",
        "TLS and HTTP",
        "key and version",
        "heartbeat",
        "endpoints",
        "queue",
    ]
    assert [check.name for check in CHECKS if not check.is_required] == ["heartbeat", "endpoints"]


def test_the_target_contains_no_password():
    context = CheckContext(None, None, 5.0)
    context.config = Config(base_url="https://me:password@host:8443/prefix", api_key="k")
    assert context.target == "https://host:8443/prefix"


def test_cleanups_run_in_reverse_order():
    order = []
    context = CheckContext(None, None, 5.0)
    context.cleanups += [lambda: order.append("first"), lambda: order.append("second")]
    context.close()
    assert order == ["second", "first"]
