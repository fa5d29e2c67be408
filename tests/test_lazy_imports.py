"""The names of the package are imported at first use, in any thread."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run_script(script):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_names_are_imported_at_first_use():
    done = run_script(
        "import sys, threading, tinkex_sync\n"
        "assert 'requests' not in sys.modules\n"
        "assert set(tinkex_sync.__all__) <= set(dir(tinkex_sync))\n"
        "assert not hasattr(tinkex_sync, 'nonsense') and not hasattr(tinkex_sync, '_nonsense')\n"
        "assert tinkex_sync.errors.TinkexError is tinkex_sync.TinkexError\n"
        "from tinkex_sync import *\n"
        "from tinkex_sync.clients import ServiceClient as original\n"
        "assert ServiceClient is original and tinkex_sync.ServiceClient is original\n"
        "import pickle\n"
        "assert pickle.loads(pickle.dumps(ConfigError('x'))).args == ('x',)\n"
        "assert pickle.loads(pickle.dumps(ServiceClient)) is original\n"
        "assert threading.active_count() == 1\n"
    )
    assert done.returncode == 0, done.stderr


def test_many_threads_may_import_a_name_concurrently():
    done = run_script(
        "import threading, tinkex_sync\n"
        "start, found = threading.Barrier(8), []\n"
        "def look_up():\n"
        "    start.wait()\n"
        "    found.append((tinkex_sync.ServiceClient, tinkex_sync.types.Datum, tinkex_sync.Config))\n"
        "threads = [threading.Thread(target=look_up) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert len(found) == 8 and len(set(found)) == 1, found\n"
    )
    assert done.returncode == 0, done.stderr
