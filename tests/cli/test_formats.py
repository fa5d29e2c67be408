"""Sizes and times in tables. Recorded cases of the official client are in tests/vectors."""

from datetime import datetime, timedelta, timezone

import pytest

from tinkex_sync.cli.formats import format_size, format_time

NOW = datetime(2025, 6, 1, 12, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("size", "text"), [(-1, "N/A"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KB"), (1 << 80, "1048576.0 EB")]
)
def test_sizes_have_the_largest_fitting_unit(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (timedelta(seconds=5), "just now"),
        (timedelta(minutes=1, seconds=30), "1 minute ago"),
        (timedelta(hours=5), "5 hours ago"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=15), "2 weeks ago"),
        (timedelta(days=40), "2025-04-22"),
    ],
)
def test_times_are_relative_for_thirty_days(passed, text):
    assert format_time(NOW - passed, NOW) == text
    assert format_time((NOW - passed).replace(tzinfo=None), NOW) == text
    assert format_time((NOW - passed).strftime("%Y-%m-%dT%H:%M:%SZ"), NOW) == text


def test_missing_times_and_other_texts_are_kept():
    assert format_time(None) == "N/A"
    assert format_time("soon") == "soon"
