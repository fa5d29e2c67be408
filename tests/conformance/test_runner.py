"""The runner itself, on a folder of cases it has never seen: rules hold, and what is not understood fails."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

ROOT = Path(__file__).parents[2]
REFUSED = {"stage": "datum", "exception": "ValidationError", "mro": ["ValidationError", "ValueError"]}


def adam(learning_rate: float, **more: float) -> Dict[str, Any]:
    """What the official SDK does with these arguments."""
    defaults = {
        "learning_rate": 1e-4,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-12,
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
    }
    given = {"learning_rate": learning_rate, **more}
    body = {"adam_params": given, "model_id": "m", "seq_id": 9}
    return {
        "input": given,
        "expected": {
            "attributes": {**defaults, **given},
            "adam_params_json": given,
            "body_text": json.dumps(body, separators=(",", ":")),
            "body": body,
        },
    }


def value(key: str, expected: Dict[str, Any], **spec: Any) -> Dict[str, Any]:
    return {"input": {"key": key, "value": spec}, "expected": expected}


SENT = {
    "json": {"data": [3.0], "dtype": "float32", "shape": [1]},
    "json_text": '{"data":[3.0],"dtype":"float32","shape":[1]}',
}
CASES = {
    "adam_params": {
        "passes small": (adam(1e-05, beta1=0.5), 1),
        "passes out of range": (adam(0.1, beta2=-0.5), 11),
        "fails unlisted": (adam(1e-05), None),
        "fails excused without cause": (adam(0.5), 11),
        "fails row of another file": (adam(0.5), 10),
        "fails no such row": (adam(0.5), 99),
    },
    "tensor_data": {
        "passes tuple": (value("weights", REFUSED, **{"from": "tuple", "values": [1, 2.5]}), 9),
        "passes uint16": (
            value("weights", REFUSED, **{"from": "numpy", "values": [1, 2], "dtype": "uint16"}),
            9,
        ),
        "passes bool": (value("x", REFUSED, **{"from": "numpy_T", "values": [[True]], "dtype": "bool"}), 9),
        "passes strings": (value("x", REFUSED, **{"from": "numpy", "values": ["a"], "dtype": "U1"}), None),
        "passes list": (value("advantages", SENT, **{"from": "list", "values": [3.0]}), None),
        "fails wrong": (value("advantages", SENT, **{"from": "list", "values": [4.0]}), None),
        "fails spelling": (value("advantages", SENT, **{"from": "list", "values": [3]}), None),
        "fails kind": (value("weights", SENT, **{"from": "polars", "values": [3.0]}), None),
        "fails key": (value("weights", SENT, **{"from": "list", "values": [3.0], "device": "cpu"}), None),
        "fails column": (value("weights", {**SENT, "to_jax": 1}, **{"from": "list", "values": [3.0]}), None),
        "fails row": (value("weights", SENT, **{"from": "list", "values": [3.0]}), 9),
    },
    "no_such_file": {"fails": ({"input": {}, "expected": {}}, None)},
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    folder = tmp_path_factory.mktemp("vectors")
    deviations: Dict[str, Dict[str, int]] = {}
    for stem, cases in CASES.items():
        recorded = [{"name": name, **case} for name, (case, _row) in cases.items()]
        (folder / f"{stem}.json").write_text(json.dumps({"description": "made up", "cases": recorded}))
        deviations[stem] = {name: row for name, (_case, row) in cases.items() if row is not None}
    (folder / "deviations.json").write_text(json.dumps(deviations))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-p",
        "no:cacheprovider",
        "tests/conformance/test_vectors.py",
    ]
    environment = {
        **os.environ,
        "TINKEX_VECTORS": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "COLUMNS": "200",
    }
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    found = re.findall(r"test_vector\[(\w+::[^\]]+)\] (PASSED|FAILED|SKIPPED|ERROR)", run.stdout)
    return dict(found)


@pytest.mark.parametrize(
    ("stem", "name"), [(stem, name) for stem, cases in CASES.items() for name in cases], ids=lambda part: part
)
def test_unseen_cases(outcomes: Dict[str, str], stem: str, name: str) -> None:
    assert outcomes[f"{stem}::{name}"] == ("PASSED" if name.startswith("passes") else "FAILED")
