"""Results on standard output: complete on a pipe at any width, folded on a terminal, with nothing else as JSON."""

import json
import os
import pty

import pytest

from tinkex_sync.cli.output import CommandError, Output, visible_text, without_secrets

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


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("\udcff", "\\udcff"),
        ("line\n\tnext é 字 👩‍👩‍👧", "line\n\tnext é 字 👩‍👩‍👧"),
    ],
)
def test_control_characters_are_made_visible(text, visible, capsys):
    assert visible_text(text) == visible
    output = Output()
    output.note(text)
    CommandError("title", text).show()
    output.result({}, "Runs", ("Name",), [(text,)])
    printed = capsys.readouterr()
    assert printed.err == f"{visible}\nError: title\n{visible}\n"
    assert "\x1b" not in printed.out


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:secret@host:8443/a/b?key=secret#secret", "https://host:8443/a/b"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("local", "local"),
    ],
)
def test_addresses_are_shown_without_secrets(url, shown):
    assert without_secrets(url) == shown


def test_the_next_command_names_the_server_without_its_secrets_and_is_quoted_for_a_shell(capsys):
    output = Output()
    output.base_url = "https://user:secret@example.org/?key=1"
    output.next_command("sample", "it's dusk", "--model", "m")
    printed = capsys.readouterr()
    command = "tinkex-sync --base-url https://example.org/ sample 'it'\"'\"'s dusk' --model m"
    assert (printed.out, printed.err) == ("", f"Next, try: {command}\n")
