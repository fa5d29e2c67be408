"""Charts of characters: height, width, and the share of the width that an unfinished curve fills."""

import pytest

from tinkex_sync.cli.demo.chart import draw_chart


@pytest.mark.parametrize("unicode", [True, False])
def test_the_highest_value_fills_the_height(unicode):
    lines = draw_chart([4.0, 2.0, 0.0], width=6, height=4, unicode=unicode).splitlines()
    assert len(lines) == 5
    full = "█" if unicode else "#"
    bar = "│" if unicode else "|"
    assert lines[0] == f"  4.00 {bar}{full * 2}".replace("  4.00", "4.00".rjust(6))
    assert lines[3].endswith(full * 4)
    assert lines[4].strip().startswith("0.00")
    assert draw_chart([4.0], unicode=False).isascii()


def test_an_unfinished_curve_fills_its_share_of_the_width():
    lines = draw_chart([1.0] * 100, width=40, height=2, complete=0.5).splitlines()
    assert lines[0].count("█") == 20


def test_a_curve_without_values_is_empty():
    lines = draw_chart([], width=10, height=3).splitlines()
    assert len(lines) == 4
    assert "█" not in "".join(lines)
