"""Run only with TINKEX_OFFICIAL_PYTHON set: an interpreter that has the official SDK 0.7.0."""

import os

collect_ignore_glob = [] if os.environ.get("TINKEX_OFFICIAL_PYTHON") else ["test_*.py"]
