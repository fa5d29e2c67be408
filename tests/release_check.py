"""The release checklist: build all distributions, install the wheels into empty environments, and run the main job.

``python tests/release_check.py [PYTHON ...]`` in an environment with build and twine, with network access. Without
arguments it checks every supported Python that is on PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
EXAMPLES = ("blocking_loop.py", "thread_pool.py")


def run(*command: object, **options: object) -> str:
    """Run a command and return its output; it must succeed."""
    print("$", *(str(part).replace(str(ROOT), ".") for part in command), flush=True)
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"exit status {done.returncode}:\n{done.stdout}")
    output: str = done.stdout
    return output


def build(folder: Path) -> List[Path]:
    """Build the client and every plugin, check their metadata, and return the wheels."""
    sources = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/setup.cfg"))]
    for source in sources:
        # From a copy, so that nothing is left in the tree.
        copy = folder / "source" / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
        run(sys.executable, "-m", "build", "--outdir", folder / "dist", copy)
    files = sorted((folder / "dist").iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    return [path for path in files if path.suffix == ".whl"]


def check(python: str, wheels: List[Path], folder: Path) -> None:
    """Install the wheels for one Python, and run the demo and examples from them, outside of the tree."""
    home = folder / f"env-{Path(python).name}"
    run(python, "-m", "venv", home)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    client = next(path for path in wheels if path.name.startswith("tinkex_sync-2"))
    run(scripts / "python", "-m", "pip", "install", "--quiet", f"{client}[all]")
    others = [path for path in wheels if path != client]
    run(scripts / "python", "-m", "pip", "install", "--quiet", *others)
    environment: Dict[str, str] = {**os.environ, "TINKER_BASE_URL": "local", "TINKEX_SYNC_JSONL": ""}
    environment.pop("PYTHONPATH", None)
    options = {"cwd": folder, "env": environment}
    found = json.loads(run(scripts / "tinkex-sync", "plugins", "--format", "json", **options))["plugins"]
    wrong = [row["name"] for row in found if row["status"] != "active"]
    if wrong:
        raise SystemExit(f"plugins that are not active: {wrong}")
    run(scripts / "tinkex-sync", "demo", **options)
    for example in EXAMPLES:
        run(scripts / "python", ROOT / "examples" / example, **options)


def main() -> None:
    """Build once, and check each Python."""
    pythons = sys.argv[1:] or [found for version in VERSIONS if (found := shutil.which(f"python{version}"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheels = build(folder)
        for python in pythons:
            check(python, wheels, folder)
    print(f"{len(wheels)} wheels are good on {len(pythons)} Pythons")


if __name__ == "__main__":
    main()
