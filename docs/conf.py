"""Settings of the documentation site: ``tox -e docs`` builds it with Sphinx."""

import sys
from pathlib import Path

from pygments.lexers.data import JsonLexer
from sphinx.highlighting import lexers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tinkex_sync import __version__  # noqa: E402

project = "tinkex_sync"
author = "tinkex_sync maintainers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
lexers["jsonl"] = JsonLexer()

html_theme = "furo"
html_title = "tinkex_sync"
html_show_copyright = False
# Links to headings, such as throttle.md#the-rule, are checked while the site is built.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
# The reference does not need it, and it is large.
autodoc_mock_imports = ["torch"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
