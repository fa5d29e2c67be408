"""Print the public surface of the package imported as ``tinker`` as JSON: ``surface.py ours|official``.

The output contains names, parameters, defaults, fields, base classes and kinds of methods, but no text. Nothing is
called to find them.
"""

import enum
import importlib
import inspect
import json
import pathlib
import pkgutil
import sys
import typing
import warnings

#: Classes whose members are listed, in addition to types and exceptions: those of which scripts have instances.
CLIENT_CLASSES = (
    "tinker.ServiceClient",
    "tinker.TrainingClient",
    "tinker.SamplingClient",
    "tinker.lib.public_interfaces.rest_client.RestClient",
    "tinker.APIFuture",
    "tinker.lib.public_interfaces.api_future.AwaitableConcurrentFuture",
    "tinker.lib.api_future_impl.QueueState",
    "tinker.lib.api_future_impl.QueueStateObserver",
    "tinker.lib.internal_client_holder.InternalClientHolder",
    "tinker.lib.retry_handler.RetryConfig",
    "tinker.lib.retryable_exception.RetryableException",
    "tinker.lib.telemetry.Telemetry",
    "tinker.lib.telemetry_provider.TelemetryProvider",
    "tinker._types.NotGiven",
    "tinker._types.Omit",
)


#: Internal modules of the official package: the low-level client on httpx (models, streams, files, resources), pools,
#: decorators, and the command line.
INTERNAL = {
    f"tinker.{name}"
    for name in (
        "_base_client",
        "_client",
        "_compat",
        "_files",
        "_models",
        "_qs",
        "_resource",
        "_response",
        "_streaming",
        "_utils",
        "cli",
        "lib.async_tinker_provider",
        "lib.chunked_fwdbwd_helpers",
        "lib.client_connection_pool_type",
        "lib.sync_only",
        "resources",
    )
}
#: The surface of the official package, recorded by ``surface.py official > surface.json``.
TABLE = pathlib.Path(__file__).with_name("surface.json")


def own(value):
    """Return whether a value is defined by the package, or is an alias such as a Literal or a Union."""
    module = getattr(value, "__module__", "") or ""
    if module.split(".")[0] in ("tinker", "tinkex_sync"):
        return not isinstance(value, (typing.TypeVar, getattr(typing, "ParamSpec", typing.TypeVar)))
    alias = module == "typing" and typing.get_origin(value) is not None
    return alias and not any(value is known for known in vars(typing).values())


def names(module):
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(name for name in listed if not inspect.ismodule(getattr(module, name)))
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return sorted(name for name, value in public.items() if own(value) and not inspect.ismodule(value))


def default(value):
    if value is inspect.Parameter.empty:
        return "required"
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else "given"


def parameters(function):
    """Return pairs of a parameter (``name``, ``*name``, ``**name``, or ``name=`` if keyword-only) and its default."""
    pairs = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        only = "=" if parameter.kind is parameter.KEYWORD_ONLY else ""
        pairs.append([stars + parameter.name + only, default(parameter.default)])
    return pairs


def is_async(function):
    while True:
        if inspect.iscoroutinefunction(function):
            return True
        if not hasattr(function, "__wrapped__"):
            return False
        function = function.__wrapped__


def fields(cls):
    if hasattr(cls, "model_fields"):
        found = {}
        for name, field in cls.model_fields.items():
            required = field.is_required()
            found[name] = "required" if required else default(field.get_default(call_default_factory=True))
        return found
    return {}


def members(cls):
    found = {}
    for name in dir(cls):
        if name.startswith("_") and name not in ("__await__", "__len__", "__getstate__"):
            continue
        defined = next((base for base in cls.__mro__ if name in vars(base)), object)
        if not own(defined) or name in fields(cls):
            continue
        value = vars(defined)[name]
        if isinstance(value, property):
            found[name] = ["property"]
        elif isinstance(value, (staticmethod, classmethod)):
            found[name] = [type(value).__name__, parameters(value.__func__)]
        elif inspect.isfunction(value):
            kind = "async" if is_async(value) else "method"
            found[name] = [kind, parameters(value)]
    return found


def bases(cls):
    skipped = ("object", "Generic", "Protocol", "BaseModel", "StrictBase", "ABC")
    return [base.__name__ for base in cls.__mro__ if base.__name__ not in skipped]


def describe(cls):
    described = {"bases": bases(cls), "members": members(cls)}
    if issubclass(cls, enum.Enum):
        return {"bases": described["bases"], "values": {member.name: member.value for member in cls}}
    if issubclass(cls, BaseException):
        annotated = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
        return {"bases": described["bases"], "attributes": sorted(annotated)}
    if fields(cls):
        return {"fields": fields(cls), "members": described["members"]}
    return {**described, "takes": parameters(cls.__init__)}


def named(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def modules():
    """Return the paths of all modules of the official package, except those of :data:`INTERNAL`."""
    paths, folders = [], ["tinker"]
    while folders:
        paths.append(folders.pop())
        package = importlib.import_module(paths[-1])
        # Some of its folders have no __init__ module, which walk_packages needs.
        for info in pkgutil.iter_modules(getattr(package, "__path__", ())):
            path = f"{paths[-1]}.{info.name}"
            if path not in INTERNAL and not info.name.endswith(("__main__", "_test")):
                folders.append(path)
        folders += [f"tinker.{name}" for name in ("lib", "types") if paths == ["tinker"]]
    return sorted(set(paths))


def surface(paths):
    """Return the surface of the modules that can be imported."""
    found, classes = {}, {}
    for path in paths:
        try:
            found[path] = names(importlib.import_module(path))
        except ImportError:
            continue
    listed = [f"tinker.{name}" for name in found["tinker"]]
    listed += [f"tinker.types.{name}" for name in found["tinker.types"] if name not in found["tinker"]]
    for path in (*listed, *CLIENT_CLASSES):
        try:
            value = named(path)
        except (ImportError, AttributeError):
            continue
        if inspect.isclass(value) and own(value):
            classes[path] = describe(value)
    return {"modules": found, "classes": classes}


def as_json(surface):
    """Return the surface as JSON with one line per module and class."""
    parts = []
    for part, rows in surface.items():
        lines = (f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in sorted(rows.items()))
        parts.append(f"{json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main():
    warnings.simplefilter("ignore")
    if sys.argv[1] == "ours":
        import tinkex_sync.compat

        tinkex_sync.compat.install()
        paths = json.loads(TABLE.read_text())["modules"]
    else:
        paths = modules()
    sys.stdout.write(as_json(surface(paths)))


if __name__ == "__main__":
    main()
