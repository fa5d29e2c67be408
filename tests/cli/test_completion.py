"""Shell completion: the scripts, and the words that bash completes with them."""

import shutil
import subprocess
import sys

import pytest
from command_runs import Commands, variables

BASH = shutil.which("bash")
#: Defines the program as a shell function, evaluates its script, and requests words as the shell does.
SCRIPT = """
set -u
tinkex-sync() {{ "{python}" -m tinkex_sync "$@"; }}
env() {{ while [[ "$1" == *=* ]]; do local -x "$1"; shift; done; "$@"; }}
eval "$(tinkex-sync completion bash)"
complete -p tinkex-sync
COMP_WORDS=({words}) COMP_CWORD={position}
_tinkex_sync_completion tinkex-sync
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "position", "expected"),
    [
        ("tinkex-sync s", 1, {"sample", "serve", "session"}),
        ("tinkex-sync checkpoint d", 2, {"delete", "download"}),
        ("tinkex-sync sample --num", 2, {"--num-samples"}),
        ("tinkex-sync --format j", 2, {"json"}),
    ],
)
def test_bash_completes_commands_options_and_values(words, position, expected):
    script = SCRIPT.format(python=sys.executable, words=words, position=position)
    done = subprocess.run(
        [BASH, "--norc", "-c", script], capture_output=True, text=True, env=variables(""), timeout=60, check=False
    )
    defined, *found = done.stdout.split("\n")
    assert "_tinkex_sync_completion tinkex-sync" in defined, done.stderr
    assert set(filter(None, found)) == expected


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef tinkex-sync"), ("fish", "complete --no-files")])
def test_other_shells_have_scripts_of_their_own(shell, mark):
    done = Commands(variables(""))("completion", shell)
    assert done.returncode == 0
    assert mark in done.stdout
    assert "_TINKEX_SYNC_COMPLETE" in done.stdout


def test_an_unknown_shell_is_wrong_usage():
    done = Commands(variables(""))("completion", "csh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "bash" in done.stderr


def test_completions_are_requested_through_an_environment_variable(command):
    words = {"_TINKEX_SYNC_COMPLETE": "bash_complete", "COMP_WORDS": "tinkex-sync checkpoint d", "COMP_CWORD": "2"}
    assert command(env=words).stdout.split() == ["plain,delete", "plain,download"]
