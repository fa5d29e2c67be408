"""Limits of size and structure that keep the package readable."""

import ast
import functools
import importlib
import inspect

import pytest
from source_code import PACKAGE, code_lines, functions, modules, name_of

#: Not part of the client proper: optional helpers, tools and servers beside it.
_BESIDE = (
    "checkpoints/",
    "cli/",
    "compat/",
    "local/",
    "plugins/queued_observer.py",
    "prompts.py",
    "protocol/protobuf_",
    "regularizers/",
    "telemetry.py",
    "testing",
    "tokenizers/",
    "training/custom_loss.py",
    "types/telemetry.py",
)
_MOST_CODE_LINES = 9_000
_MOST_FUNCTION_LINES = 40
_MOST_PARAMETERS = 7
_LONGEST_CLASS_CHAIN = 3
#: Packages whose public methods have the parameters that users need.
_PUBLIC = ("clients/", "compat/", "plugins/hookspecs.py")


def test_the_client_proper_has_at_most_9000_lines_of_code():
    counts = {name_of(path): len(code_lines(path)) for path in modules()}
    proper = {name: count for name, count in counts.items() if not name.startswith(_BESIDE)}
    assert sum(proper.values()) <= _MOST_CODE_LINES, sum(proper.values())


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_functions_have_at_most_40_lines_of_code(path):
    lines = code_lines(path)
    long = {}
    for name, node, _ in functions(path):
        count = sum(node.lineno <= line <= node.end_lineno for line in lines)
        if count > _MOST_FUNCTION_LINES:
            long[name] = count
    assert not long


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_functions_have_at_most_7_parameters_unless_they_are_public_methods(path):
    many = {}
    for name, node, owner in functions(path):
        arguments = node.args
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        if owner is not None and names and names[0] in ("self", "cls"):
            names = names[1:]
        is_public = name_of(path).startswith(_PUBLIC) and not node.name.startswith("_")
        is_constructor = node.name == "__init__" and not (owner is None or owner.name.startswith("_"))
        if len(names) > _MOST_PARAMETERS and not is_public and not is_constructor:
            many[name] = len(names)
    assert not many


def _classes():
    for path in modules():
        if path.name == "__main__.py":
            continue
        module = importlib.import_module(
            ".".join(("tinkex_sync", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        )
        for _, found in inspect.getmembers(module, inspect.isclass):
            if found.__module__ == module.__name__:
                yield found


def test_class_chains_are_at_most_3_long_except_errors():
    long = {}
    for found in _classes():
        if issubclass(found, BaseException):
            continue
        chain = [one for one in found.__mro__ if one.__module__.startswith("tinkex_sync")]
        if len(chain) > _LONGEST_CLASS_CHAIN:
            long[f"{found.__module__}.{found.__qualname__}"] = [one.__name__ for one in chain]
    assert not long


def _private_names(tree):
    """Return the private names that a module defines: functions, classes, variables, attributes and slots."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)  # __slots__
    return {name for name in found if name.startswith("_")}


def _is_private(name):
    return name.startswith("_") and not name.startswith("__")


@functools.lru_cache
def _private_names_of_package():
    return set().union(*(_private_names(ast.parse(path.read_text())) for path in modules()))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_module_uses_private_names_of_another(path):
    tree = ast.parse(path.read_text())
    own = _private_names(tree)
    used = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("tinkex_sync")):
            used += [alias.name for alias in node.names if _is_private(alias.name) and alias.name != "_version"]
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            owner = node.value
            is_own = (isinstance(owner, ast.Name) and owner.id in ("self", "cls")) or _is_super(owner)
            if not is_own and node.attr in _private_names_of_package():
                used.append(f"{ast.unparse(node)}:{node.lineno}")
    assert not used


def _is_super(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
