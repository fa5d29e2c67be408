"""The metadata of tinker, which scripts ask importlib.metadata for."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_version_of_tinker_is_found_after_install_only():
    code = (
        "import importlib.metadata as m, tinkex_sync.compat as c\n"
        "before = [d.metadata['Name'] for d in m.distributions(name='tinker')]\n"
        "c.install()\n"
        "assert m.version('tinker') == c.__version__, m.version('tinker')\n"
        "assert m.metadata('tinker')['Name'] == 'tinker' and not m.files('tinker')\n"
        "print(before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    # Before install(), only an installed tinker has metadata.
    installed = [found.metadata["Name"] for found in importlib.metadata.distributions(name="tinker")]
    assert done.stdout == f"{installed}\n"
