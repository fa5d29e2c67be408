"""Report unused code: ``python tests/unused_code.py``, in an environment with vulture.

Tests, docs and benchmarks count as users. The names that something outside the code uses are listed with the reason.
"""

import sys
from pathlib import Path

from vulture import Vulture

ROOT = Path(__file__).resolve().parent.parent
USERS = ("tinkex_sync", "plugins", "docs", "benchmarks", "tests")

#: Names that vulture cannot see used, by the reason.
USED_BY_NAME = {
    "Python calls or reads them": "__getattr__ __dir__ __signature__ _missing_ create_module exec_module spec exc_info "
    "instance call_default_factory traceback kwargs locate_file find_distributions",
    "requests and urllib3 read or call them": "trust_env cert cert_reqs ca_certs ca_cert_dir "
    "cert_file key_file __class__ pool_classes_by_scheme _cookies get_redirect_target",
    "io and gzip call or read them": "readinto myfileobj",
    "the tokenizers library reads it": "encode_special_tokens",
    "scripts written for transformers read them": "is_fast unk_token sep_token sep_token_id cls_token cls_token_id "
    "mask_token mask_token_id",
    "click and rich read them": "command_class group_class standalone_mode",
    "Flask, werkzeug and http.server call or read them": "strict_slashes protocol_version disable_nagle_algorithm "
    "wbufsize run_wsgi handle_error fault",
    "protobuf descriptors and messages have them": "map_entry type_name oneof_index proto3_optional offsets token_ids",
    "tenacity reads it": "attempt_number",
    "the table of settings is read by name, from endpoints' rows": "poll_timeout heartbeat_timeout submit_timeout",
    "a feature of the protocol that tests read through the status": "compressed_batches",
    "the signatures of hooks and of pydantic's and dataclasses-json's methods have them": "sent_bytes received_bytes "
    "server_request_id bytes_left "
    "infer_missing by_alias",
    "names of the official SDK": "NoneType DEFAULT_TIMEOUT DEFAULT_MAX_RETRIES as_dict extra_json follow_redirects "
    "log_fatal_exception_sync acapture_exceptions",
    "reprlib reads them": "maxstring maxlong maxother",
}
#: Names of one form: methods of the official SDK, and hooks, which plugins implement.
FORMS = ("_async", "tinkex_")
#: Functions of these modules are registered by decorators: views of Flask and commands of click.
REGISTERED = ("tinkex_sync/local/app.py", "tinkex_sync/local/resource_routes.py", "tinkex_sync/cli/checkpoints.py")
#: Their fields are named by the protocol and used on the wire.
WIRE_TYPES = "types/"


def is_explained(item) -> bool:
    """Return whether an unused name has a reason."""
    place = Path(item.filename).resolve().relative_to(ROOT).as_posix()
    if not place.startswith("tinkex_sync/"):
        return True
    names = {name for names in USED_BY_NAME.values() for name in names.split()}
    is_field = place.startswith(f"tinkex_sync/{WIRE_TYPES}") and item.typ == "variable"
    is_registered = place in REGISTERED and item.typ == "function"
    has_form = item.name.startswith(FORMS) or item.name.endswith(FORMS)
    return item.name in names or has_form or is_field or is_registered


def main() -> int:
    """Print the unused names without a reason; return 1 if there are any."""
    vulture = Vulture()
    vulture.scavenge([str(ROOT / user) for user in USERS])
    unused = [item for item in vulture.get_unused_code(min_confidence=60) if not is_explained(item)]
    for item in unused:
        print(item.get_report())
    return int(bool(unused))


if __name__ == "__main__":
    sys.exit(main())
