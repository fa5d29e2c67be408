"""Module paths of the official package, in processes of their own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_install_registers_the_module_paths():
    done = run_python(
        "import tinkex_sync.compat as c; c.install(); c.install()\n"
        "import tinker, tinker.types.tensor_data as t\n"
        "from tinker.lib.public_interfaces.rest_client import RestClient\n"
        "from tinker.lib.public_interfaces import APIFuture\n"
        "from tinker.lib.retry_handler import RetryConfig\n"
        "from tinker.types.shared.untyped_api_future import UntypedAPIFuture\n"
        "from tinker.types.model_id import ModelID\n"
        "assert tinker is c and t.TensorData is tinker.TensorData and tinker.types.Datum is tinker.Datum\n"
    )
    assert done.returncode == 0, done.stderr


def test_module_paths_work_under_each_name():
    done = run_python(
        "import sys, tinkex_sync.compat as c\n"
        "from tinkex_sync.compat.types.tensor_data import TensorData\n"
        "from tinkex_sync.compat.lib.public_interfaces.service_client import RetryConfig\n"
        "sys.modules['tinker'] = c\n"
        "from tinker.types.tensor_data import TensorData as same\n"
        "from tinker._exceptions import APIStatusError, TinkerError\n"
        "import tinker.lib.retry_handler\n"
        "assert same is TensorData is c.TensorData\n"
        "assert tinker.lib.retry_handler.RetryConfig is RetryConfig and tinker.types is c.types\n"
        "assert issubclass(APIStatusError, TinkerError) and 'error' not in dir(tinker)\n"
        "try:\n    import tinker.types.nothing\n"
        "except ImportError as error:\n    assert 'nothing' in str(error)\n"
        "else:\n    raise AssertionError\n"
    )
    assert done.returncode == 0, done.stderr


def test_module_paths_of_tinker_do_not_exist_without_install():
    done = run_python(
        "import tinkex_sync.compat\n"
        "try:\n    from tinker.types.tensor_data import TensorData\n"
        "except ImportError:\n    pass\n"
        "else:\n    assert TensorData is not tinkex_sync.compat.TensorData\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_error_for_a_module_that_compat_does_not_have_contains_the_reason():
    done = run_python(
        "import tinkex_sync.compat as c; c.install()\n"
        "for name in ('tinker._client', 'tinker.proto.tinker_public_pb2', 'tinker.resources'):\n"
        "    try:\n        __import__(name)\n"
        "    except ImportError as error:\n        print(error)\n"
        "try:\n    c._client\n"
        "except AttributeError as error:\n    print(error)\n"
    )
    lines = done.stdout.splitlines()
    assert "no low-level client" in lines[0] and "no low-level client" in lines[2], done
    assert "internal to this package" in lines[1]
    assert "no low-level client" in lines[3]


def test_install_fails_if_the_official_package_was_imported():
    done = run_python(
        "import sys, types; sys.modules['tinker'] = types.ModuleType('tinker')\n"
        "import tinkex_sync.compat as c; c.install()"
    )
    assert "imported already" in done.stderr
