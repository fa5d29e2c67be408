"""The entry point ``main``: it names the packages that are missing."""

import subprocess
import sys
from pathlib import Path

import pytest
from command_runs import ROOT, variables

import tinkex_sync


@pytest.mark.parametrize("missing", [["click"], ["rich"], ["click", "rich"]])
def test_missing_packages_are_named_with_the_command_that_installs_them(missing):
    script = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing} else find(name, *rest)
from tinkex_sync.cli import main
main(["version"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables(""), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (f'Error: the command line needs {" and ".join(missing)}: pip install "tinkex-sync[cli]"\n')


def test_the_tests_use_the_package_of_this_checkout():
    assert Path(tinkex_sync.__file__).resolve().is_relative_to(ROOT)
