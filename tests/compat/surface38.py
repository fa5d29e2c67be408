"""Print the public names of the official package 0.38.0 as JSON; an interpreter that has the package runs this.

The output contains the names of the package and its types, and the parameters of its clients' methods, but no text.
"""

import inspect
import json
import types

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


if __name__ == "__main__":
    surface = {
        "version": tinker.__version__,
        "package": names(tinker),
        "types": names(tinker.types),
        "clients": {cls.__name__: methods(cls) for cls in CLIENTS},
    }
    print(json.dumps(surface, indent=1, sort_keys=True))
