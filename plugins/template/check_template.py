"""Make a plugin from the template, install it, and run its tests: ``python check_template.py``, with copier and pip."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import copier

HERE = Path(__file__).parent


def main() -> None:
    """Run the check; a failure ends it with a status other than 0."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tinkex-sync-call-counter"
        data = {"name": "call-counter", "summary": "Counts calls"}
        copier.run_copy(str(HERE), str(folder), data=data, defaults=True, quiet=True, vcs_ref="HEAD")
        print("made:", ", ".join(sorted(path.name for path in folder.iterdir())))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, str(folder)], check=True)
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-W", "error", str(folder)], check=True, cwd=folder)
        listed = subprocess.run(
            [sys.executable, "-m", "tinkex_sync", "plugins"], check=True, capture_output=True, text=True
        ).stdout
        assert "call-counter" in listed, listed


if __name__ == "__main__":
    main()
