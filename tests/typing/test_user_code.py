"""Type checkers accept ordinary user code and find its mistakes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER_CODE = Path(__file__).with_name("user_code.py")
ROOT = USER_CODE.parent.parent.parent


def check(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.version_info < (3, 10), reason="current versions of mypy need Python 3.10")
def test_mypy_knows_the_types_of_both_forms_of_operations(tmp_path):
    pytest.importorskip("mypy")
    check(
        *(sys.executable, "-m", "mypy", "--config-file", str(ROOT / "setup.cfg"), "--strict"),
        *("--cache-dir", str(tmp_path), str(USER_CODE)),
    )


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed")
def test_pyright_knows_the_types_of_both_forms_of_operations():
    check("pyright", "--pythonpath", sys.executable, str(USER_CODE))
