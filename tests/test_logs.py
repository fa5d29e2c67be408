"""Every log record of the package is one line without control characters."""

import io
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_server import Answer, SteppedClock, bare_session

import tinkex_sync
from tinkex_sync.logs import get_logger, one_line

FORGED = "busy\nERROR root: forged\x1b[2J\r\u202e\u2028\ud800"


@pytest.fixture
def log():
    """The text that a plain handler on the root logger writes."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    yield text
    logging.getLogger().removeHandler(handler)


def test_control_characters_are_escaped_and_other_text_is_unchanged(log):
    logger = get_logger("tinkex_sync.example")
    logger.warning("Event: text=%s share=%d%%", FORGED, 7)
    logger.warning("Event: text=%s", "größer 日本 😀")
    assert log.getvalue() == (
        r"WARNING tinkex_sync.example: Event: text=busy\nERROR root: forged\x1b[2J\r\u202e\u2028\ud800 share=7%"
        "\nWARNING tinkex_sync.example: Event: text=größer 日本 😀\n"
    )


def test_a_long_text_is_cut():
    assert len(one_line("x" * 1_000_000)) < 11_000


def test_texts_of_a_server_cannot_forge_a_line(log):
    with bare_session(SteppedClock(), protocol="0.7") as (server, session):
        messages = dict.fromkeys(("info_message", "warning_message", "error_message"), FORGED)
        server.script("create_session", Answer(body={"session_id": "s", "type": "create_session", **messages}))
        session.open()
    lines = log.getvalue().splitlines()
    assert len(lines) == 2 and "\x1b" not in log.getvalue()
    assert all(line.split(":")[0].endswith("tinkex_sync.session") for line in lines)


def test_every_module_takes_its_logger_from_one_place():
    folder = Path(tinkex_sync.__file__).parent
    using = {
        str(path.relative_to(folder)) for path in folder.rglob("*.py") if re.search(r"\bgetLogger\(", path.read_text())
    }
    # The package's own logger gets handlers, and that of urllib3 a filter; nothing is logged to them.
    assert using == {"logs.py", "cli/root.py", "http/sockets.py"}


def run_script(text, **environment):
    """Return what a script without any configuration of logging writes to standard error."""
    variables = {**os.environ, "PYTHONPATH": str(Path(tinkex_sync.__file__).parents[1]), **environment}
    done = subprocess.run([sys.executable, "-c", text], env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


LOGS = "import tinkex_sync.logs as l; log = l.get_logger('tinkex_sync.example'); log.{}('Event: number=%d', 1)"


def test_a_warning_is_visible_in_a_script_that_configures_nothing():
    assert run_script(LOGS.format("warning")) == "Event: number=1\n"
    assert run_script(LOGS.format("info")) == ""


def test_tinker_log_selects_the_level():
    line = run_script(LOGS.format("info"), TINKER_LOG="INFO")
    assert re.fullmatch(r"\S+ \S+ INFO tinkex_sync\.example: Event: number=1\n", line)
    assert run_script(LOGS.format("debug"), TINKER_LOG="info") == ""
    assert run_script(LOGS.format("info"), TINKER_LOG="no such level") == ""


def test_tinker_log_adds_nothing_to_a_program_that_configures_logging():
    configured = "import logging; logging.basicConfig(format='%(message)s'); " + LOGS.format("info")
    assert run_script(configured, TINKER_LOG="info") == "Event: number=1\n"
