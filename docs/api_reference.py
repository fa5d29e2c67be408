"""Write the list of public names in ``docs/api.md``: ``python docs/api_reference.py``.

With ``--check`` the script writes nothing and exits with status 1 if the page is out of date.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PAGE = Path(__file__).with_name("api.md")
#: The public packages and modules, in the order of their floors.
PUBLIC = (
    "errors",
    "types",
    "config",
    "tokenizers",
    "prompts",
    "regularizers",
    "plugins",
    "local",
    "clients",
    "checkpoints",
    "compat",
    "testing",
)
HEAD = """# Public names

Code outside the package uses the names on this page: those of `tinkex_sync` itself and those of its public
packages. Every other module is internal and may change in any version. `help(name)` shows the full documentation.
This page is written by `docs/api_reference.py`.
"""


def summary(value: Any) -> str:
    """Return the first sentence of the documentation of a value, or its own text if it is a constant."""
    if inspect.isclass(value) and value.__module__ == "builtins":
        return f"Another name of `{value.__name__}`."
    if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
        text = inspect.getdoc(value) or ""
        return " ".join(text.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
    shown = repr(value)
    return f"`{shown}`" if len(shown) <= 60 and "<" not in shown else type(value).__name__


def table(module: Any) -> str:
    """Return the table of the public names of a module, in Markdown."""
    rows = [f"| `{name}` | {summary(getattr(module, name))} |" for name in sorted(module.__all__)]
    return "\n".join(["| name | meaning |", "| --- | --- |", *rows])


def page() -> str:
    """Return the whole page."""
    sections = [HEAD]
    for name in ("tinkex_sync", *(f"tinkex_sync.{one}" for one in PUBLIC)):
        module = importlib.import_module(name)
        sections.append(f"## {name}\n\n{summary(module)}\n\n{table(module)}\n")
    return "\n".join(sections)


def main() -> int:
    """Rewrite the page, or compare it with the package."""
    expected = page()
    if "--check" in sys.argv:
        present = PAGE.read_text("utf-8")
        sys.stderr.writelines(
            difflib.unified_diff(present.splitlines(True), expected.splitlines(True), "page", "package")
        )
        return int(present != expected)
    PAGE.write_text(expected, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
