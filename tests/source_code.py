"""Reading the package's source: its modules, code lines, functions and classes, for tests of its limits."""

import ast
import io
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "tinkex_sync"

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
}
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def modules():
    """Return the paths of all modules, sorted."""
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """Return the path of a module below the package, such as ``http/retry.py``."""
    return path.relative_to(PACKAGE).as_posix()


def code_lines(path):
    """Return the numbers of the lines that hold code: no blank lines, comments and docstrings."""
    source = path.read_text()
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def functions(path):
    """Yield ``(qualified name, node, enclosing class or None)`` of every function of a module."""

    def walk(node, prefix, owner):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{prefix}{child.name}", child, owner
                yield from walk(child, f"{prefix}{child.name}.", None)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.", child)
            else:
                yield from walk(child, prefix, owner)

    yield from walk(ast.parse(path.read_text()), "", None)
