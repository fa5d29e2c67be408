"""The table of the last recorded run in docs/gateways.md."""

import datetime
import platform
import re
from pathlib import Path
from typing import List, NamedTuple

__all__ = ["Row", "write_page"]

_HEAD = """| program | situation | what was run | result | requests cut | log lines |
| --- | --- | --- | --- | ---: | ---: |
"""
_MARKED = re.compile(r"(<!-- gateways: [^\n]* -->\n).*(<!-- end of gateways -->)", re.S)


class Row(NamedTuple):
    """One run behind a gateway."""

    program: str
    situation: str
    work: str
    result: str
    #: Requests that the gateway ended because the server was silent.
    cut: int
    #: Lines that the client logged from WARNING on.
    log_lines: int


def write_page(path: str, rows: List[Row]) -> None:
    """Replace the table between the markers of a page."""
    page = Path(path)
    day, python = datetime.date.today().isoformat(), platform.python_version()
    table = f"Recorded on {day} (Python {python}, {platform.system()}, {platform.machine()}).\n\n{_HEAD}"
    table += "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)
    page.write_text(_MARKED.sub(lambda found: f"{found.group(1)}{table}{found.group(2)}", page.read_text()))
