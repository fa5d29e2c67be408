"""The layout: imports only go down the floors, heavy packages stay out of the core, and sizes stay within limits."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tinkex_sync"

#: The floors, lowest first. A package or module imports only from itself and from lower floors.
FLOORS = [
    "_version errors validation",
    "types concurrency",
    "config tokenizers prompts regularizers",
    "throttle plugins",
    "protocol",
    "http local",
    "session heartbeat telemetry",
    "futures polling",
    "training sampling",
    "clients",
    "checkpoints compat testing",
    "cli",
    "__init__ __main__",
]
FLOOR = {name: floor for floor, line in enumerate(FLOORS) for name in line.split()}
HEAVY = {"numpy", "torch", "transformers", "tokenizers", "click", "rich", "flask", "werkzeug", "autograd"}
HEAVY |= {"google.protobuf", "zstandard", "PIL", "tiktoken", "huggingface_hub", "jinja2"}


def place_of(path):
    """The name in FLOORS: a module, or the package that contains it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Yield ``(line, module or package of ours)`` for every import in a file, those for type checking too."""
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
    own = place_of(path)
    assert own in FLOOR, f"{own} has no floor: add it to FLOORS"
    for line, target in imports(path):
        assert target == own or FLOOR.get(target, 99) < FLOOR[own], (
            f"{path.relative_to(PACKAGE)}:{line} imports {target}, which is not on a lower floor"
        )


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys; import tinkex_sync, threading; "
        f"print([m for m in {sorted(HEAVY)!r} if m in sys.modules], threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.split() == ["[]", "1"], done.stdout + done.stderr
