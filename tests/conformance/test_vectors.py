"""Replay of every recorded case of protocol 0.7.0: one test per file and case.

The environment variable TINKEX_VECTORS names the folder (default: ``tests/vectors``). ``tests/deviations.json``
({file: {case: row}}) lists the row of DEVIATIONS.md that excuses a case. A ``deviations.json`` in the folder
overrides it.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import pytest

from . import registry

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("TINKEX_VECTORS") or HERE.parent / "vectors")

for module in sorted(HERE.glob("replay_*.py")):
    importlib.import_module(f"{__package__}.{module.stem}")


def _read(path: Path) -> Dict[str, Any]:
    loaded: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _stem(name: str) -> str:
    return name[: -len(".json")] if name.endswith(".json") else name


def _deviations() -> Dict[str, Dict[str, int]]:
    merged: Dict[str, Dict[str, int]] = _read(HERE.parent / "deviations.json")
    own = FOLDER / "deviations.json"
    for name, rows in (_read(own) if own.exists() else {}).items():
        merged[_stem(name)] = {**merged.get(_stem(name), {}), **rows}
    return merged


DEVIATIONS = _deviations()
DOCUMENTS = {path.stem: _read(path) for path in sorted(FOLDER.glob("*.json")) if path.stem != "deviations"}


def _cases() -> Iterator[Any]:
    for stem, document in DOCUMENTS.items():
        if stem in registry.PENDING and stem not in registry.REPLAY:
            continue
        for case in document["cases"]:
            yield pytest.param(stem, case, id=f"{stem}::{case['name']}")


@pytest.mark.parametrize(("stem", "case"), list(_cases()))
def test_vector(stem: str, case: Dict[str, Any]) -> None:
    replay = registry.REPLAY.get(stem)
    if replay is None:
        registry.not_understood(f"vector file {stem}.json")
    replay(registry.prepared(case), DOCUMENTS[stem], _row(stem, case["name"]))


def _row(stem: str, name: str) -> Optional[int]:
    row = DEVIATIONS.get(stem, {}).get(name)
    if row is not None and not (type(row) is int and 1 <= row <= 27):
        registry.not_understood(f"row {row!r}")
    return row


def test_folder_contains_vector_files() -> None:
    assert DOCUMENTS, f"no vector files in {FOLDER}"


def test_no_file_with_a_replay_is_pending() -> None:
    assert not registry.PENDING & set(registry.REPLAY)


def test_every_listed_deviation_names_an_existing_case() -> None:
    own = FOLDER / "deviations.json"
    listed = DEVIATIONS if HERE.parent / "vectors" == FOLDER else _read(own) if own.exists() else {}
    known = {(stem, case["name"]) for stem, document in DOCUMENTS.items() for case in document["cases"]}
    excused = [(_stem(name), case) for name, rows in listed.items() for case in rows]
    assert [entry for entry in excused if entry not in known] == []
