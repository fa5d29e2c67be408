"""Imports only go down; heavy packages stay out of the core; files stay readable."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tinkex_sync"

#: What may import what: a module imports from floors below its own; within a line, from those to its left.
FLOORS = [
    "_version errors clock",
    "timer semaphores byte_tokenizer types sources hookspecs",
    "config protocol byte_estimates chunking metrics pace retry sockets",
    "plugin_loading plugin_calls queued_observer plugins queue_log",
    "protobuf local",
    "tokenizer_files tokenizers regularizers multimodal",
    "endpoints codec tokens credentials deprecations transport throttle workers",
    "open_calls advice background billing calls session",
    "telemetry queue_states futures promises bulk_futures",
    "clients",
    "archives restarts",
    "compat cli testing",
    "__init__ __main__",
]
HEIGHT = {
    name: (floor, place) for floor, line in enumerate(FLOORS) for place, name in enumerate(line.split())
}
HEAVY = {"numpy", "torch", "transformers", "tokenizers", "click", "rich", "flask", "werkzeug", "autograd"}
HEAVY |= {"google.protobuf", "zstandard", "PIL", "tiktoken", "huggingface_hub", "jinja2"}


def module_of(path):
    """The name in FLOORS: a module, or the subpackage it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(line, top-level module of ours) for every import in a file, those for type checking too."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            targets = [(*base, *(node.module or "").split("."))] if node.module else []
            if not node.module:
                targets = [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            targets = [tuple((node.module or "").split("."))]
        elif isinstance(node, ast.Import):
            targets = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "tinkex_sync":
                yield node.lineno, (target[1] if len(target) > 1 else "__init__")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_the_floors(path):
    own = module_of(path)
    assert own in HEIGHT, f"{own} has no floor yet: give it one"
    if own in ("hookspecs", "background", "__init__", "__main__"):
        return  # hookspecs names types in signatures, background the session it serves
    for line, target in imports(path):
        if target != own and not (target == "__init__" and own in ("cli", "compat", "testing")):
            assert HEIGHT.get(target, (99, 0)) < HEIGHT[own], (
                f"{path.name}:{line} imports {target}, which is above"
            )


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys; import tinkex_sync, threading; "
        f"print([m for m in {sorted(HEAVY)!r} if m in sys.modules], threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == ["[]", "1"], done.stdout + done.stderr


def test_no_file_is_longer_than_400_lines():
    long = {
        str(path.relative_to(PACKAGE)): count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long
