"""Run a script of this folder and print its results as JSON: ``run_script.py ours|official script_sync``."""

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
os._exit(0)  # threads of the official package would delay the exit
