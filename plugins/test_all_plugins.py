"""All plugins in one environment: each entry point loads beside the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DISTRIBUTIONS = sorted(path.parent.name for path in HERE.glob("*/setup.cfg"))


def test_every_plugin_is_active_beside_all_others() -> None:
    command = [sys.executable, "-m", "tinkex_sync", "plugins", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows = [row for row in json.loads(done.stdout)["plugins"] if row["origin"] == "entry point"]
    found = {row["distribution"]: row["status"] for row in rows}
    assert found == dict.fromkeys(DISTRIBUTIONS, "active")


def test_every_plugin_is_described() -> None:
    page = (HERE.parent / "docs/distributions.md").read_text("utf-8")
    for name in DISTRIBUTIONS:
        assert f"| `{name}` |" in page
        readme = (HERE / name / "README.md").read_text("utf-8")
        assert f"pip install {name}" in readme
