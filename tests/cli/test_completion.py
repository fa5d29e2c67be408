"""Shell completion, as a shell has it; and a command line that imports only what a command needs."""

import shutil
import subprocess
import sys

import pytest
from command_runs import Commands, variables

BASH = shutil.which("bash")
#: Defines the program as a function of the shell, evaluates its script, and asks for words as the shell does.
ASK = """
set -u
tinkex-sync() {{ "{python}" -m tinkex_sync "$@"; }}
env() {{ while [[ "$1" == *=* ]]; do local -x "$1"; shift; done; "$@"; }}
eval "$(tinkex-sync completion bash)"
complete -p tinkex-sync
COMP_WORDS=({words}) COMP_CWORD={place}
_tinkex_sync_completion tinkex-sync
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("tinkex-sync s", 1, {"sample", "serve", "session"}),
        ("tinkex-sync checkpoint d", 2, {"delete", "download"}),
        ("tinkex-sync sample --num", 2, {"--num-samples"}),
        ("tinkex-sync --format j", 2, {"json"}),
    ],
)
def test_bash_completes(words, place, expected):
    script = ASK.format(python=sys.executable, words=words, place=place)
    done = subprocess.run(
        [BASH, "--norc", "-c", script],
        capture_output=True,
        text=True,
        env=variables(""),
        timeout=60,
        check=False,
    )
    defined, *found = done.stdout.split("\n")
    assert "_tinkex_sync_completion tinkex-sync" in defined, done.stderr
    assert set(filter(None, found)) == expected


@pytest.mark.parametrize(
    ("shell", "mark"), [("zsh", "#compdef tinkex-sync"), ("fish", "complete --no-files")]
)
def test_other_shells_have_scripts_of_their_own(shell, mark):
    done = Commands(variables(""))("completion", shell)
    assert done.returncode == 0
    assert mark in done.stdout
    assert "_TINKEX_SYNC_COMPLETE" in done.stdout


def test_a_shell_without_a_script_is_wrong_usage():
    done = Commands(variables(""))("completion", "csh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bash" in done.stderr


def run(script):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=variables(""),
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_needs_no_client_imports_none():
    done = run(
        "import sys\n"
        "from tinkex_sync.cli.root import root\n"
        "try: root.main(['version'])\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "loaded = {name for name in ('requests', 'dataclasses_json', 'tenacity', 'rich') if name in sys.modules}\n"
        "assert not loaded, loaded\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_package_has_all_its_names_and_imports_them_when_asked():
    done = run(
        "import sys, threading, tinkex_sync\n"
        "assert 'requests' not in sys.modules\n"
        "assert set(tinkex_sync.__all__) <= set(dir(tinkex_sync))\n"
        "assert not hasattr(tinkex_sync, 'nonsense') and not hasattr(tinkex_sync, '_nonsense')\n"
        "assert tinkex_sync.errors.TinkexError is tinkex_sync.TinkexError\n"
        "from tinkex_sync import *\n"
        "from tinkex_sync.clients import ServiceClient as there\n"
        "assert ServiceClient is there and tinkex_sync.ServiceClient is there\n"
        "import pickle\n"
        "assert pickle.loads(pickle.dumps(ConfigError('x'))).args == ('x',)\n"
        "assert pickle.loads(pickle.dumps(ServiceClient)) is there\n"
        "assert threading.active_count() == 1\n"
    )
    assert done.returncode == 0, done.stderr


def test_many_threads_may_ask_for_a_name_at_once():
    done = run(
        "import threading, tinkex_sync\n"
        "start, found = threading.Barrier(8), []\n"
        "def ask():\n"
        "    start.wait()\n"
        "    found.append((tinkex_sync.ServiceClient, tinkex_sync.types.Datum, tinkex_sync.Config))\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "assert len(found) == 8 and len(set(found)) == 1, found\n"
    )
    assert done.returncode == 0, done.stderr
