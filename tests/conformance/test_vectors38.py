"""Replay of every recorded case of protocol 0.38.0: one test per file and case.

The environment variable TINKEX_VECTORS38 names the folder (default: ``tests/vectors38``). ``tests/deviations38.json``
({file: {case: row}}) lists the row that excuses a case; the replay contains the rule of the row. The case "*" means
every case of the file. The rules of ``excuses38`` apply to cases that it does not list. A ``deviations.json`` in the
folder overrides both.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

from tinkex_sync.protocol.negotiation import forget

from . import registry
from .excuses38 import excuse

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("TINKEX_VECTORS38") or HERE.parent / "vectors38")

for module in sorted(HERE.glob("replay38_*.py")):
    importlib.import_module(f"{__package__}.{module.stem}")


def _read(path: Path) -> Dict[str, Any]:
    loaded: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return loaded


def _deviations() -> Dict[str, Dict[str, int]]:
    merged: Dict[str, Dict[str, int]] = _read(HERE.parent / "deviations38.json")
    for name, rows in _read(FOLDER / "deviations.json").items():
        stem = Path(name).stem
        merged[stem] = {**merged.get(stem, {}), **rows}
    return merged


DEVIATIONS = _deviations()
DOCUMENTS = {path.stem: _read(path) for path in sorted(FOLDER.glob("*.json")) if path.stem != "deviations"}


def _cases() -> Iterator[Any]:
    for stem, document in DOCUMENTS.items():
        if stem in registry.PENDING38:
            continue
        for case in document["cases"]:
            yield pytest.param(stem, case, id=f"38-{stem}::{case['name']}")


@pytest.mark.parametrize(("stem", "case"), list(_cases()))
def test_vector(stem: str, case: Dict[str, Any]) -> None:
    replay = registry.REPLAY38.get(stem)
    if replay is None:
        registry.not_understood(f"vector file {stem}.json")
    case = registry.prepared(case)
    rows = DEVIATIONS.get(stem, {})
    row = rows[case["name"]] if case["name"] in rows else rows.get("*", excuse(stem, case))
    if row is not None and type(row) is not int:
        registry.not_understood(f"row {row!r}")
    # The client remembers the protocol by address, and a later server may have the same port.
    forget()
    try:
        replay(case, DOCUMENTS[stem], row)
    finally:
        forget()


@pytest.mark.parametrize("stem", sorted(path.stem for path in (HERE.parent / "vectors38").glob("*.json")))
def test_rules_excuse_exactly_the_listed_cases(stem: str) -> None:
    rows = _read(HERE.parent / "deviations38.json").get(stem, {})
    for case in _read(HERE.parent / "vectors38" / f"{stem}.json")["cases"]:
        assert excuse(stem, registry.prepared(case)) == rows.get(case["name"], rows.get("*")), case["name"]


def test_folder_contains_vector_files() -> None:
    assert DOCUMENTS, f"no vector files in {FOLDER}"


def test_no_file_with_a_replay_is_pending() -> None:
    assert not registry.PENDING38 & set(registry.REPLAY38)
