"""The public surface for scripts, compared with the recorded surface of the official package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from surface import TABLE

import tinkex_sync.compat as tinker
from tinkex_sync.compat.futures import APIFuture

ROOT = Path(__file__).resolve().parent.parent.parent
OFFICIAL = os.environ.get("TINKEX_OFFICIAL_PYTHON")
RECORDED = json.loads(TABLE.read_text())

#: Internal names in modules of the official package, and names that a module imported for its own use. The module that
#: defines a public name has it here too.
INTERNAL_NAMES = {
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "AsyncTinker",
    "AsyncTinkerProvider",
    "AwaitableConcurrentFuture",
    "BaseModel",
    "BytesSemaphore",
    "ClientConnectionPool",
    "ClientConnectionPoolType",
    "FutureRetrieveRequest",
    "GenericEvent",
    "InternalClientHolderThreadSingleton",
    "RequestErrorCategory",
    "RequestFailedError",
    "RetryHandler",
    "SessionEndEvent",
    "SessionStartEvent",
    "Severity",
    "Telemetry",
    "TelemetryBatch",
    "TelemetryEvent",
    "TelemetryProvider",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "UnhandledExceptionEvent",
    "capture_exceptions",
    "combine_fwd_bwd_output_results",
    "init_telemetry",
    "is_retryable_status_code",
    "is_user_error",
    "sync_only",
}
#: A module with annotations of the low-level client, and the names of it that scripts use.
TYPE_HINTS = "tinker._types"
KEPT_OF_TYPE_HINTS = {"NOT_GIVEN", "NotGiven", "Omit", "RequestOptions", "Timeout"}
#: Internal members: validators of pydantic, and the event loop and the HTTP clients behind the holder.
ABSENT_MEMBERS = {
    "tinker.Datum": {"convert_tensors"},
    "tinker.types.ImageChunk": {"serialize_data", "validate_data"},
    "tinker.lib.internal_client_holder.InternalClientHolder": {
        "aclient",
        "estimate_bytes_count_in_chunk",
        "estimate_bytes_count_in_model_input",
        "execute_with_retries",
        "get_loop",
        "get_training_client_id",
        "run_coroutine_threadsafe",
        "sample_dispatch_rate_limit",
    },
}
#: Classes whose constructors only the package calls; they have other arguments here.
OTHER_CONSTRUCTORS = {
    "tinker.APIFuture",
    "tinker.lib.internal_client_holder.InternalClientHolder",
    "tinker.lib.telemetry.Telemetry",
}
#: Base classes that are implementation details of the official package.
BASES = {"AsyncTinkerProvider", "ReprEnum", "StrEnum", "TelemetryProvider"}
RENAMED = {
    "TinkerError": "TinkexError",
    "RetryableException": "PromiseExpiredError",
    "InternalClientHolder": "Holder",
    "AwaitableConcurrentFuture": "APIFuture",
}
#: The pydantic methods that scripts use. model_construct, model_fields_set, model_json_schema, the hooks for
#: subclasses and deprecated methods (dict, json, parse_obj, ...) do not exist here.
PYDANTIC = ("model_copy", "model_dump", "model_dump_json", "model_fields", "model_validate", "model_validate_json")


def surface(python, package, path=None):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [python, str(TABLE.with_name("surface.py")), package],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ours():
    return surface(sys.executable, "ours", ROOT)


@pytest.mark.parametrize("path", RECORDED["modules"])
def test_a_module_has_the_official_names(ours, path):
    names = set(RECORDED["modules"][path])
    names = names & KEPT_OF_TYPE_HINTS if path == TYPE_HINTS else names
    missing = names - set(ours["modules"][path])
    assert missing <= (set() if path in ("tinker", "tinker.types") else INTERNAL_NAMES)


def same(theirs, mine):
    """Return whether two defaults are equal; 1 and 1.0 are."""
    try:
        return float(theirs) == float(mine)
    except ValueError:
        return theirs == mine


def accepts(mine, theirs):
    """Return whether ``mine`` accepts all arguments of ``theirs`` and has no further required ones."""
    given = dict(map(tuple, theirs))
    ours_by_name = dict(map(tuple, mine))
    if [name for name, _ in mine if name in given] != [name for name, _ in theirs]:
        return False
    positional = [name for name, _ in theirs if name[0] != "*" and name[-1] != "="]
    if [name for name, _ in mine][: len(positional)] != positional:
        return False
    optional = all(same(given[name], ours_by_name[name]) for name in given if given[name] != "required")
    return optional and all(default != "required" or name[0] == "*" for name, default in mine if name not in given)


@pytest.mark.parametrize("path", RECORDED["classes"])
def test_a_class_has_the_official_members(ours, path):
    theirs, mine = RECORDED["classes"][path], ours["classes"][path]
    for name in theirs.get("bases", ()):
        # An alias has the name of the class that it stands for.
        if name not in BASES:
            assert RENAMED.get(name, name) in mine["bases"] or name == path.rpartition(".")[2]
    for name, default in theirs.get("fields", {}).items():
        # A field may be optional here that is required there, because some servers do not send it.
        assert default == "required" or same(default, mine["fields"][name])
        assert name in mine["fields"]
    for name, member in theirs.get("members", {}).items():
        if name in ABSENT_MEMBERS.get(path, ()):
            assert name not in mine["members"]
            continue
        assert name in mine["members"], name
        kind, *takes = mine["members"][name]
        assert kind == member[0], name
        assert all(accepts(have, want) for have, want in zip(takes, member[1:])), name
    assert theirs.get("values") == mine.get("values")
    if "takes" in theirs and path not in OTHER_CONSTRUCTORS:
        assert accepts(mine["takes"], theirs["takes"])


def test_errors_have_the_official_attributes():
    made = {
        tinker.APIError: tinker.APIError("m"),
        tinker.APIConnectionError: tinker.APIConnectionError("m"),
        tinker.APITimeoutError: tinker.APITimeoutError("m"),
        tinker.APIResponseValidationError: tinker.APIResponseValidationError("m"),
        tinker.RequestFailedError: tinker.RequestFailedError("m", "req-1", tinker.types.RequestErrorCategory.User),
    }
    for path, row in RECORDED["classes"].items():
        cls = getattr(tinker, path.rpartition(".")[2], None)
        if "attributes" in row and cls is not None and cls is not tinker.TinkerError:
            error = made.get(cls) or cls("m", status_code=418)
            assert all(hasattr(error, name) for name in row["attributes"]), path
    failed = made[tinker.RequestFailedError]
    assert (failed.message, failed.request_id, failed.category) == ("m", "req-1", "user")


def test_types_have_the_pydantic_methods_that_scripts_use():
    models = [path for path, row in RECORDED["classes"].items() if "fields" in row]
    assert len(models) > 50
    for path in models:
        cls = getattr(tinker.types, path.rpartition(".")[2])
        assert all(hasattr(cls, name) for name in PYDANTIC), path


def test_both_names_of_the_future_are_one_class():
    from tinkex_sync.compat.lib.public_interfaces.api_future import AwaitableConcurrentFuture

    assert AwaitableConcurrentFuture is APIFuture


@pytest.mark.skipif(OFFICIAL is None, reason="TINKEX_OFFICIAL_PYTHON is not set")
def test_the_recorded_surface_is_that_of_the_official_package():
    assert surface(OFFICIAL, "official") == RECORDED


def test_every_public_name_exists():
    for name in tinker.__all__:
        assert getattr(tinker, name) is not None
    for name in ("NOT_GIVEN", "NotGiven", "Omit", "NoneType", "DEFAULT_TIMEOUT", "DEFAULT_MAX_RETRIES"):
        assert hasattr(tinker, name)
