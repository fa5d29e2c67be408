"""Each file runs only with the variable set that names an interpreter with the official SDK of its version."""

import os

#: File -> the variables of which one must be set.
WANTED = {
    "test_official_sdk.py": ("TINKEX_OFFICIAL_PYTHON",),
    "test_official_modern.py": ("TINKEX_OFFICIAL25_PYTHON", "TINKEX_OFFICIAL38_PYTHON"),
}

collect_ignore = [file for file, names in WANTED.items() if not any(map(os.environ.get, names))]
