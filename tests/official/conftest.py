"""Collect a file only if a variable contains an interpreter that has the official SDK of its version."""

import os

#: By file: the variables, one of which must be set.
VARIABLES = {
    "test_official_0_7.py": ("TINKEX_OFFICIAL_PYTHON",),
    "test_official_0_38.py": ("TINKEX_OFFICIAL25_PYTHON", "TINKEX_OFFICIAL38_PYTHON"),
}

collect_ignore = [file for file, names in VARIABLES.items() if not any(map(os.environ.get, names))]
