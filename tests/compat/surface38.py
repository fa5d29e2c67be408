"""Print the public names of the official package 0.38.0 as JSON; an interpreter that has the package runs this.

The output contains the names of the package and its types, what the types have, and the parameters of its clients'
methods, but no text.
"""

import dataclasses
import enum
import inspect
import json
import types

import pydantic
import tinker
from tinker.lib.public_interfaces.rest_client import RestClient

CLIENTS = (tinker.ServiceClient, tinker.TrainingClient, tinker.SamplingClient, RestClient)


def names(module):
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return sorted(name for name, value in public.items() if not isinstance(value, types.ModuleType))


def methods(cls):
    found = {}
    for name in dir(cls):
        method = getattr(cls, name)
        if not name.startswith("_") and callable(method):
            found[name] = [one for one in inspect.signature(method).parameters if one != "self"]
    return found


def members(cls):
    """Return the public names that instances of a type have, except those of pydantic's base class."""
    found = {name for name in dir(cls) if not name.startswith("_")}
    if dataclasses.is_dataclass(cls):
        found |= {field.name for field in dataclasses.fields(cls)}
    if issubclass(cls, pydantic.BaseModel):
        found = (found - set(dir(pydantic.BaseModel))) | set(cls.model_fields)
    return sorted(name for name in found if not name.startswith("_"))


def types_with_members():
    found = {name: getattr(tinker.types, name) for name in names(tinker.types)}
    skipped = (BaseException, enum.Enum)
    own = {
        name: value
        for name, value in found.items()
        if inspect.isclass(value) and value.__module__.startswith("tinker") and not issubclass(value, skipped)
    }
    return {name: members(value) for name, value in own.items()}


if __name__ == "__main__":
    surface = {
        "version": tinker.__version__,
        "package": names(tinker),
        "types": names(tinker.types),
        "members": types_with_members(),
        "clients": {cls.__name__: methods(cls) for cls in CLIENTS},
    }
    print(json.dumps(surface, indent=1, sort_keys=True))
