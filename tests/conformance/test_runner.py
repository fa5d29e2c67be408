"""The runner itself, on cases that were never recorded.

Every form that the head of a vector file describes passes through the replay of the file. A form that no head
describes fails, and so does a case that an unrelated row excuses.
"""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest

from tinkex_sync import types
from tinkex_sync.protocol.protobuf_writer import encode_forward_backward

ROOT = Path(__file__).parents[2]
REFUSED = {"stage": "datum", "exception": "ValidationError", "mro": ["ValidationError", "ValueError"]}


Case = Dict[str, Any]


def adam(learning_rate: float, **more: float) -> Case:
    """Return the case that the official SDK would record for these arguments."""
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


def value(key: str, expected: Case, **spec: Any) -> Case:
    return {"input": {"key": key, "value": spec}, "expected": expected}


SENT = {
    "json": {"data": [3.0], "dtype": "float32", "shape": [1]},
    "json_text": '{"data":[3.0],"dtype":"float32","shape":[1]}',
}
SCALAR = {"json": {"data": [3.0], "dtype": "float32", "shape": []}, "tolist": 3.0}


def constructed(name: str, *ancestors: str, **fields: Any) -> Case:
    """Return a case of an error that is constructed by hand."""
    mro = [name, *ancestors, "Exception", "BaseException"]
    expected = {"exception": name, "mro": mro, "str": "m", **fields, "pickle": {"ok": True}}
    return {"input": {"construct": name}, "expected": expected}


def direct(call: str, expected: Case, **server: Any) -> Case:
    """Return a case of one GET request without retries."""
    answer = {"status": 200, "headers": {}, "body": {}, "body_text": None, **server}
    given = {"call": call, "max_retries": 0, "server": answer, "strict": True}
    return {"input": given, "expected": {"pickle": {"ok": True}, **expected}}


NOT_FOUND = {
    "exception": "NotFoundError",
    "mro": ["NotFoundError", "APIStatusError", "APIError", "TinkerError"],
    "str": "Error code: 404 - {'detail': 'm'}",
    "status_code": 404,
    "body": {"detail": "m"},
}
DROPPED = {
    "exception": "APIConnectionError",
    "mro": ["APIConnectionError", "APIError", "TinkerError"],
    "str": "Connection error.",
    "cause": "ConnectionResetError",
}


def attempted(exception: str) -> Case:
    """Return a case of a send that fails once with an error that is not retried."""
    expected = {"attempts": 1, "sleeps_s": [], "total_s": 0.0, "result": {"exception": exception}}
    return {"input": {"seconds_per_attempt": 0.0}, "expected": expected}


def estimated(level: str, spec: Any, size: int) -> Case:
    return {"input": {"level": level, "spec": spec}, "expected": {"bytes": size}}


def chunks_sent(*chunks: Case) -> Case:
    """Return a case of chunks whose JSON is that of one text chunk with the tokens 1 and 2."""
    return {"input": {"chunks": list(chunks)}, "expected": {"json": {"chunks": [{"tokens": [1, 2]}]}}}


def noted(case: Case) -> Case:
    """Return the case with a comment in its input."""
    return {**case, "input": {**case["input"], "note": "recorded by hand"}}


CASES: Dict[str, Dict[str, Tuple[Case, Optional[int]]]] = {
    "adam_params": {
        "passes note": (noted(adam(1e-05, beta1=0.5)), 1),
        "passes small": (adam(1e-05, beta1=0.5), 1),
        "passes out of range": (adam(0.1, beta2=-0.5), 11),
        "fails unlisted": (adam(1e-05), None),
        "fails excused without cause": (adam(0.5), 11),
        "fails row of another file": (adam(0.5), 10),
        "fails no such row": (adam(0.5), 99),
    },
    "tensor_data": {
        "passes tuple": (value("weights", REFUSED, **{"from": "tuple", "values": [1, 2.5]}), 9),
        "passes uint16": (value("weights", REFUSED, **{"from": "numpy", "values": [1, 2], "dtype": "uint16"}), 9),
        "passes bool": (value("x", REFUSED, **{"from": "numpy_T", "values": [[True]], "dtype": "bool"}), 9),
        "passes strings": (value("x", REFUSED, **{"from": "numpy", "values": ["a"], "dtype": "U1"}), None),
        "passes list": (value("advantages", SENT, **{"from": "list", "values": [3.0]}), None),
        "passes list of numpy scalars": (
            value("advantages", SENT, **{"from": "list", "values": [3.0], "dtype": "float32"}),
            None,
        ),
        "passes scalar array": (
            value("advantages", SCALAR, **{"from": "numpy", "values": 3.0, "dtype": "float32"}),
            None,
        ),
        "passes scalar": (value("advantages", REFUSED, **{"from": "scalar", "value": 3.0}), None),
        "passes note": (value("advantages", SENT, **{"from": "list", "values": [3.0], "note": "x"}), None),
        "fails wrong": (value("advantages", SENT, **{"from": "list", "values": [4.0]}), None),
        "fails spelling": (value("advantages", SENT, **{"from": "list", "values": [3]}), None),
        "fails kind": (value("weights", SENT, **{"from": "polars", "values": [3.0]}), None),
        "fails key": (value("weights", SENT, **{"from": "list", "values": [3.0], "device": "cpu"}), None),
        "fails column": (value("weights", {**SENT, "to_jax": 1}, **{"from": "list", "values": [3.0]}), None),
        "fails row": (value("weights", SENT, **{"from": "list", "values": [3.0]}), 9),
    },
    "datum": {
        "passes list of numpy integers": (chunks_sent({"tokens_list_numpy_int64": [1, 2]}), None),
        "passes specification of numpy integers": (
            chunks_sent({"tokens": {"from": "list", "values": [1, 2], "dtype": "int32"}}),
            None,
        ),
        "passes tuple": (chunks_sent({"tokens_tuple": [1, 2], "note": "a tuple"}), None),
        "fails unknown tokens": (chunks_sent({"tokens_jax_int64": [1, 2]}), None),
    },
    "errors": {
        "passes base class": (constructed("TinkerError"), None),
        "passes status": (
            constructed(
                "InternalServerError",
                *("APIStatusError", "APIError", "TinkerError"),
                message="m",
                status_code=500,
                body=None,
            ),
            None,
        ),
        "passes other endpoint": (direct("GET /api/v1/healthz", NOT_FOUND, status=404, body={"detail": "m"}), 13),
        "passes built-in cause": (direct("GET /api/v1/training_runs/r", DROPPED, drop_connection=True), 13),
        "fails unknown class": (constructed("NoSuchError"), None),
        "fails unknown endpoint": (direct("GET /api/v1/nothing", NOT_FOUND, status=404), None),
    },
    "execute_with_retries": {
        "LookupError_once": (attempted("LookupError"), None),
        "UnicodeDecodeError_once": (attempted("UnicodeDecodeError"), None),
        "TinkerError_once": (attempted("TinkerError"), None),
        "NotFoundError_once": (attempted("NotFoundError"), None),
        "fails_NoSuchError_once": (attempted("NoSuchError"), None),
    },
    "retry_handler": {
        "passes built-in": ({"input": {"exception": "LookupError"}, "expected": {"retry": False}}, None),
        "passes base class": ({"input": {"exception": "TinkerError"}, "expected": {"retry": False}}, None),
    },
    "byte_estimates": {
        "passes every kind": (
            estimated(
                "model_input",
                [
                    {"kind": "text", "n_tokens": 3},
                    {"kind": "image", "n_bytes": 7},
                    {"kind": "image_b64", "b64": "aGVsbG8="},
                    {"kind": "asset", "location": "ab", "times": 2},
                ],
                30 + 7 + 5 + 4,
            ),
            None,
        ),
        "passes datum without loss inputs": (
            estimated("datum", {"chunks": [{"kind": "text", "n_tokens": 1}]}, 10),
            None,
        ),
        "fails kind": (estimated("chunk", {"kind": "audio", "n_bytes": 1}, 1), None),
    },
    "no_such_file": {"fails": ({"input": {}, "expected": {}}, None)},
}


# Protocol 0.38.0


def trained(chunks: List[Case], inputs: Case, model_input: Optional[List[int]] = None, **more: Any) -> Case:
    """Return a case of a training request with the tokens 1 and 2 and the weights 0 and 1, in one or more chunks."""
    datum = types.Datum(model_input=types.ModelInput.from_ints([1, 2]), loss_fn_inputs={"weights": [0.0, 1.0]})
    config = more.get("client_config", {})
    count = 2 if config.get("fwdbwd_max_chunk_len") == 1 else 1
    requests = []
    for number in range(count):
        body = encode_forward_backward([datum], "cross_entropy", None, "m", number + 1)
        packed = {"b64": base64.b64encode(body).decode(), "fields": {"data": []}}
        requests.append({"body": {"$protobuf": packed}})
    data = [{"chunks": chunks, "loss_fn_inputs": inputs}] * count
    given = {"op": "forward_backward", "data": data, "loss_fn": "cross_entropy", **more}
    return {"input": given, "expected": {"requests": requests}}


TEXT: Case = {"tokens": [1, 2]}
WEIGHTS: Case = {"weights": [0.0, 1.0]}


def scalar_case() -> Case:
    """Return a case of a scalar array as a loss input."""
    datum = types.Datum(
        model_input=types.ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"weights": types.TensorData(data=[1.5], dtype="float32", shape=[])},
    )
    body = encode_forward_backward([datum], "cross_entropy", None, "m", 1)
    case = trained([TEXT], {"weights": {"from": "numpy", "dtype": "float32", "values": 1.5}})
    packed = {"b64": base64.b64encode(body).decode(), "fields": {"data": []}}
    return {**case, "expected": {"requests": [{"body": {"$protobuf": packed}}]}}


def polled(answer: Any, exception: str, cause: Optional[str], status: int = 200) -> Case:
    given = {
        "expected_type": "OptimStepResponse",
        "request_type": "OptimStep",
        "observer": True,
        "server": [{"status": status, "headers": {}, "body": answer}],
    }
    expected = {"exception": exception, "cause": cause, "observer_calls": [], "polls": []}
    return {"input": given, "expected": expected}


def exchange(path: str, body: Case, answer: Case, key: str) -> Case:
    return {
        "request": {
            "method": "POST",
            "path": f"/api/v1/{path}",
            "headers": {"x-api-key": key, "x-extra": "1"},
            "body": body,
        },
        "response": {"status": 200, "headers": {}, "body": answer},
    }


def opened(args: Case, session: Case, key: str = "tml-test-key") -> Case:
    version = {"sdk_version": "0.38.0"}
    session = {"tags": [], "user_metadata": {}, **version, **session}
    exchanges = [
        exchange("client/config", version, {"use_pyqwest_transport": False}, key),
        exchange("client/dynamic_config", version, {}, key),
        exchange("create_session", session, {"type": "create_session", "session_id": "sess-1"}, key),
    ]
    expected = {
        "requests_at_construction": 0,
        "client_config": {"use_pyqwest_transport": False},
        "client_dynamic_config": {
            "refresh_interval_sec": 300,
            "sample_cancel_enabled": False,
            "sample_cancel_max_batch_size": 64,
        },
        "exchanges": exchanges,
    }
    return {"input": {"args": {"default_headers": {"X-Extra": "1"}, **args}}, "expected": expected}


def authenticated(api_key: str) -> Case:
    paths = ("client/config", "client/dynamic_config", "create_session", "sessions")
    requests = [
        {
            "method": "GET" if path == "sessions" else "POST",
            "path": f"/api/v1/{path}",
            "x-api-key": "<user jwt>",
            "status": 200,
            "idempotency_key_present": path != "sessions",
        }
        for path in paths
    ]
    expected = {"requests": requests, "after": "['sess-1', 'sess-2']"}
    return {"input": {"api_key": api_key, "pjwt_auth_enabled": False}, "expected": expected}


def paused(observer: str, *logged: int) -> Case:
    calls = [{"t": t, "queue_state": "paused_capacity", "reason": "full"} for t in (0, 30, 60)]
    log = [[t, f"Sampling is paused for sampler s. Reason: full{'.' * (t % 2)}"] for t in logged]
    return {"input": {"observer": observer, "calls": calls}, "expected": {"log": log}}


CASES38: Dict[str, Dict[str, Tuple[Case, Optional[int]]]] = {
    "fwdbwd_requests": {
        "passes note": (noted(trained([{**TEXT, "note": "two tokens"}], WEIGHTS)), None),
        "passes client_config": (trained([TEXT], WEIGHTS, client_config={"fwdbwd_max_chunk_len": 1}), None),
        "passes numpy integers": (trained([{"tokens_list_numpy_int32": [1, 2]}], WEIGHTS), None),
        "passes specification of numpy integers": (
            trained([{"tokens": {"from": "list", "values": [1, 2], "dtype": "int64"}}], WEIGHTS),
            None,
        ),
        "passes list of numpy floats": (
            trained([TEXT], {"weights": {"from": "list", "values": [0.0, 1.0], "dtype": "float32"}}),
            None,
        ),
        "passes scalar array": (scalar_case(), None),
        "fails kind": (trained([TEXT], {"weights": {"from": "jax", "values": [0.0, 1.0]}}), None),
        "fails key": (trained([TEXT], WEIGHTS, server_config={}), None),
    },
    "chunking": {
        "passes client_config": (
            {
                "input": {
                    "datums": [{"repeat": 3, "chunks": [{"kind": "text", "n_tokens": 1}]}],
                    "client_config": {"fwdbwd_max_chunk_len": 2},
                },
                "expected": {"request_datum_counts": [2, 1], "request_byte_estimates": [8, 4]},
            },
            None,
        ),
        "passes dmel": (
            {
                "input": {"datums": [{"repeat": 1, "chunks": [{"kind": "dmel", "n_bytes": 1}]}]},
                "expected": {"request_datum_counts": [1], "request_byte_estimates": [1]},
            },
            None,
        ),
    },
    "futures": {
        "passes built-in cause": (polled("{oops", "ValueError", "JSONDecodeError"), None),
        "passes other built-in cause": (polled([1], "ValueError", "AttributeError"), None),
        "passes base class as cause": (polled({"detail": "m"}, "ValueError", "TinkerError", 401), None),
        "passes base class": (polled({"error": "bad"}, "TinkerError", None), None),
        "fails unknown cause": (polled({"detail": "m"}, "ValueError", "NoSuchError", 401), None),
    },
    "startup": {
        "passes keyword arguments": (
            opened(
                {"user_metadata": {"team": "x", "note": "kept"}, "project_id": "p", "api_key": "tml-other"},
                {"user_metadata": {"team": "x", "note": "kept"}, "project_id": "p"},
                key="tml-other",
            ),
            None,
        ),
        "passes limits and address": (
            opened({"timeout": 7.5, "max_retries": 2, "base_url": "<base>", "note": "as usual"}, {}),
            None,
        ),
        "fails unknown argument": (opened({"colour": "blue"}, {}), None),
    },
    "auth": {
        "passes own token": (authenticated("JWT"), None),
        "passes own token without end": (authenticated("JWT, no exp claim"), None),
    },
    "queue_state": {
        "passes sampling": (paused("sampling", 0, 60), None),
        "passes training": (paused("training"), 1),
        "fails sampling": (paused("sampling", 0, 30), None),
    },
}


def run_cases(folder: Path, cases: Dict[str, Dict[str, Tuple[Case, Optional[int]]]], module: str) -> Dict[str, str]:
    """Write vector files, run a test module on them, and return the outcome of each case by "stem::name"."""
    deviations: Dict[str, Dict[str, int]] = {}
    limits = {"fwdbwd_max_chunk_len": 1024, "fwdbwd_max_chunk_bytes_count": 5_000_000}
    for stem, by_name in cases.items():
        recorded = [{"name": name, **case} for name, (case, _row) in by_name.items()]
        document = {"description": "made up", "limits": limits, "cases": recorded}
        (folder / f"{stem}.json").write_text(json.dumps(document))
        deviations[stem] = {name: row for name, (_case, row) in by_name.items() if row is not None}
    (folder / "deviations.json").write_text(json.dumps(deviations))
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {
        **os.environ,
        "TINKEX_VECTORS": str(folder),
        "TINKEX_VECTORS38": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "COLUMNS": "200",
    }
    command.append(f"tests/conformance/{module}.py")
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    return dict(re.findall(r"test_vector\[(\S+::[^\]]+)\] (PASSED|FAILED|SKIPPED|ERROR)", run.stdout))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    return run_cases(tmp_path_factory.mktemp("vectors"), CASES, "test_vectors")


@pytest.fixture(scope="module")
def outcomes38(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    return run_cases(tmp_path_factory.mktemp("vectors38"), CASES38, "test_vectors38")


def names(cases: Dict[str, Dict[str, Tuple[Case, Optional[int]]]]) -> List[Tuple[str, str]]:
    return [(stem, name) for stem, by_name in cases.items() for name in by_name]


@pytest.mark.parametrize(("stem", "name"), names(CASES), ids=lambda part: part)
def test_unseen_cases(outcomes: Dict[str, str], stem: str, name: str) -> None:
    assert outcomes[f"{stem}::{name}"] == ("FAILED" if name.startswith("fails") else "PASSED")


@pytest.mark.parametrize(("stem", "name"), names(CASES38), ids=lambda part: part)
def test_unseen_cases_of_0_38(outcomes38: Dict[str, str], stem: str, name: str) -> None:
    assert outcomes38[f"38-{stem}::{name}"] == ("FAILED" if name.startswith("fails") else "PASSED")
