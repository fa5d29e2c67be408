"""The page of public names lists the public names, and the page of the architecture shows the real frames."""

import importlib
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load(path):
    """Import a script of the project that is no module of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_public_names_is_up_to_date():
    reference = load(ROOT / "docs" / "api_reference.py")
    assert (ROOT / "docs" / "api.md").read_text("utf-8") == reference.page(), "run python docs/api_reference.py"


def test_every_public_package_is_on_the_page():
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    names = re.findall(r"^## tinkex_sync\.(\w+)$", page, re.MULTILINE)
    for name in names:
        module = importlib.import_module(f"tinkex_sync.{name}")
        for public in module.__all__:
            assert f"| `{public}` |" in page
