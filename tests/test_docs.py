"""Every code block of the README and the docs runs, and every link within them leads to a file.

The Python blocks of a page run one after another, in one namespace, against the embedded server. A block fenced as
``python torch`` needs torch. A block fenced as ``text story.txt`` or ``jsonl chats.jsonl`` is a file for the shell
lines of its page. Shell lines that call tinkex-sync run; all others must match a pattern of ``RUN_ELSEWHERE``.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/*.md"),
        ROOT / "examples/README.md",
        *ROOT.glob("plugins/*/README.md"),
    ]
)
#: Shown, not run: output, file contents, and names of settings.
SHOWN = {"text", "console", "json", "ini", "cfg", "toml", "jsonl"}
#: Directives of the site, which its build checks.
DIRECTIVES = {"{toctree}", "{literalinclude}", "{eval-rst}"}
#: Patterns of shell lines that other tests, continuous integration or a person run.
RUN_ELSEWHERE = (
    r'python3 -m venv \.venv && \.venv/bin/pip install "\.\[cli,local\]" && \.venv/bin/tinkex-sync demo',
    r"python3 -m venv \.venv-tox && \.venv-tox/bin/pip install tox && \.venv-tox/bin/tox",
    r"python3 -m venv \.venv",
    r"(\.venv/bin/)?(python -m )?pip install .*",
    r"tox -e \w+",
    r"python -m pytest.*",
    r"python (benchmarks|docs|examples)/.*",
    r"export \w+=.*",
    r"tinkex-sync serve.*",  # tests/cli runs it
    r"eval \"?\$\(.*",
)

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.M | re.S)


def blocks(page, languages):
    for match in _FENCE.finditer(page.read_text()):
        if match.group(1).strip() in languages:
            line = page.read_text()[: match.start()].count("\n") + 2
            yield line, match.group(2)


def test_every_block_names_its_language():
    known = SHOWN | {"python", "python torch", "sh"}
    for page in PAGES:
        for match in _FENCE.finditer(page.read_text()):
            kind, _, file = match.group(1).strip().partition(" ")
            assert match.group(1).strip() in known or kind in DIRECTIVES or (file and kind in SHOWN), (
                f"{page.name}: a block is fenced {match.group(1)!r}"
            )


_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_to_a_file(page):
    text = _FENCE.sub("", page.read_text())
    targets = [link for link in _LINK.findall(text) if not link.startswith(("http:", "https:", "mailto:"))]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert not missing


_MODULE = re.compile(r"`((?:\w+/)+\w+\.py)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_exists(page):
    named = _MODULE.findall(page.read_text())
    assert not [path for path in named if not ((ROOT / path).exists() or (ROOT / "tinkex_sync" / path).exists())]


def pages_with(*languages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES if any(blocks(page, languages))]


def _environment(server, page):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TINKER_", "TINKEX_"))}
    # A plugin is imported from its folder, because it need not be installed.
    folders = [str(ROOT), *([str(page.parent)] if page.parent.parent.name == "plugins" else [])]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    return {**clean, "TINKER_BASE_URL": server.base_url, "TINKER_API_KEY": "local", "PYTHONPATH": path}


@pytest.mark.parametrize("page", pages_with("python", "python torch"))
def test_python_blocks_run(page, server, tmp_path):
    torch = importlib.util.find_spec("torch") is not None
    script = []
    for line, text in blocks(page, {"python", "python torch"} if torch else {"python"}):
        # Blank lines put the code where it stands on the page, so that a traceback names the right line.
        script.append("\n" * (line - 1 - "".join(script).count("\n")) + text)
    file = tmp_path / f"page_{page.stem}.py"  # docs/tokenizers.md must not hide the library
    file.write_text("".join(script))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(file)],
        cwd=tmp_path,
        env=_environment(server, page),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{page.name}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", pages_with("sh"))
def test_shell_lines_run(page, server, tmp_path):
    for match in _FENCE.finditer(page.read_text()):
        kind, _, file = match.group(1).strip().partition(" ")
        if file and kind in SHOWN:
            (tmp_path / file).write_text(match.group(2))
    for _, text in blocks(page, {"sh"}):
        for line in text.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+", " ", line.split(" #")[0]).strip()
            if not line or line.startswith("#") or any(re.fullmatch(p, line) for p in RUN_ELSEWHERE):
                continue
            words = shlex.split(line)
            assert words[0] == "tinkex-sync", f"{page.name}: {line!r} is not run by any test"
            done = subprocess.run(
                [sys.executable, "-m", "tinkex_sync", *words[1:]],
                cwd=tmp_path,
                env=_environment(server, page),
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, f"{page.name}: {line}\n{done.stdout}\n{done.stderr}"
