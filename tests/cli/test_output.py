"""Results on standard output: complete on a pipe at any width, folded on a terminal, with nothing else as JSON."""

import json
import os
import pty

import pytest

from tinkex_sync.cli.output import Output

LONG = "x" * 300


@pytest.mark.parametrize("columns", [None, "20", "80", "400"])
@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_table_on_a_pipe_is_never_cut_or_wrapped(columns, terminal, monkeypatch, capsys):
    monkeypatch.setenv("TERM", terminal)
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    title = "a title of many words " * 20
    Output().result({}, title.strip(), ("Name", "Path"), [("first", LONG), ("second", "y" * 200)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == title.strip()
    assert len(lines) == 7
    assert LONG in lines[4]
    assert "y" * 200 in lines[5]


def test_a_colored_table_on_a_pipe_is_never_cut_or_wrapped(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    Output().result({}, "Paths", ("Name", "Path"), [("first", LONG)])
    assert LONG in capsys.readouterr().out


def test_a_table_on_a_terminal_is_folded_to_its_width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        Output().result({}, "Paths", ("Name", "Path"), [("first", LONG)])
    with os.fdopen(ours, "rb") as screen:
        text = os.read(screen.fileno(), 1 << 16).decode()
    rows = [line for line in text.splitlines() if "x" in line]
    assert len(rows) > 4
    assert max(map(len, rows)) <= 90, "80 characters, and codes for colors"
    assert sum(row.count("x") for row in rows) == len(LONG)


def test_json_is_all_that_reaches_standard_output(capsys):
    output = Output()
    output.format = "json"
    output.note("a note")
    output.result({"a": 1}, "title", ("A",), [("1",)])
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"a": 1}
    assert printed.err == "a note\n"
