"""The layout: imports only go down the floors, heavy packages stay out of the core, and tests mirror the package."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "tinkex_sync"

#: The floors, lowest first. A package or module imports only from itself and from lower floors.
FLOORS = [
    "_version errors logs validation",
    "types concurrency",
    "config tokenizers prompts regularizers",
    "throttle plugins",
    "protocol",
    "http local",
    "session heartbeat telemetry",
    "futures polling",
    "training sampling",
    "clients",
    "checkpoints compat testing testing_fixtures",
    "cli",
    "__init__ __main__",
]
FLOOR = {name: floor for floor, line in enumerate(FLOORS) for name in line.split()}
HEAVY = {"numpy", "torch", "transformers", "tokenizers", "click", "rich", "flask", "werkzeug", "autograd"}
HEAVY |= {"google.protobuf", "zstandard", "PIL", "tiktoken", "huggingface_hub", "jinja2"}

#: Modules without a test of their own name, and the reason. A file that a reason names must exist. ``__init__`` files
#: without functions and classes only export names, and need no row.
UNTESTED_BY_NAME = {
    "__init__.py": "imports names at first use: tests/test_lazy_imports.py and tests/test_public_names.py",
    "__main__.py": "calls the command line: tests/cli/test_main.py",
    "_version.py": "one constant, sent to the server: tests/http/test_transport.py",
    "cli/__init__.py": "the entry point: tests/cli/test_main.py",
    "compat/__init__.py": "exports the official names: tests/compat/test_surface.py",
    "local/engine/errors.py": "one class without code, raised in tests/local/engine/test_sampling.py",
    "plugins/events.py": "two records without code: tests/plugins/test_hookspecs.py",
    "plugins/queue_reasons.py": "a table of texts: tests/plugins/test_queue_log.py",
    "protocol/protobuf_schema.py": (
        "a table from which protobuf builds the messages: tests/protocol/test_protobuf_writer.py and"
        " tests/protocol/test_protobuf_reader.py"
    ),
}


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


def own_test(path):
    """Return where the tests of a module stand. Underscores around a name are left out."""
    relative = path.relative_to(PACKAGE)
    return TESTS / relative.parent / f"test_{relative.stem.strip('_')}.py"


def only_exports(path):
    """Whether a module is an ``__init__`` file without functions and classes."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = ast.walk(ast.parse(path.read_text()))
    return path.name == "__init__.py" and not any(isinstance(node, definitions) for node in nodes)


def test_every_module_has_a_test_of_its_own_name_or_a_reason():
    untested = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if not own_test(path).exists() and not only_exports(path)
    }
    assert untested - set(UNTESTED_BY_NAME) == set(), "add tests/<same path>/test_<name>.py, or a row with the reason"
    assert set(UNTESTED_BY_NAME) - untested == set(), "these rows are stale: remove them"


@pytest.mark.parametrize("module", UNTESTED_BY_NAME)
def test_the_tests_that_a_reason_names_exist(module):
    named = re.findall(r"tests/[\w/]+\.py", UNTESTED_BY_NAME[module])
    assert named
    assert [name for name in named if not (TESTS.parent / name).exists()] == []
