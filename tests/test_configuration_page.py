"""The page of all settings is complete and up to date."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from tinkex_sync import Config
from tinkex_sync.config import ENVIRONMENT

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "configuration.md").read_text()


def test_the_page_is_up_to_date():
    script = DOCS / "configuration_reference.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr or "run python docs/configuration_reference.py"


def test_every_setting_has_a_meaning_and_its_variable():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE, re.M))
    for one in fields(Config):
        assert len(rows[one.name]) > 10, one.name
        variable = ENVIRONMENT.get(one.name, ("",))[0]
        assert variable in rows[one.name]
