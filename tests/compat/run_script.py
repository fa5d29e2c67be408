"""Run a script of this folder: ``run_script.py ours|official script_sync``; prints its results as JSON."""

import importlib
import json
import os
import sys

package, script = sys.argv[1:]
if package == "ours":
    import tinkex_sync.compat

    tinkex_sync.compat.install()
tinker = importlib.import_module("tinker")

found = {}
importlib.import_module(script).main(tinker, found)
print(json.dumps(found))
sys.stdout.flush()
os._exit(0)  # the official package's threads would keep the process for a while
