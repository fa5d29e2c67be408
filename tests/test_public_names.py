"""Every public name has documentation and a signature, and its type annotations can be evaluated."""

import importlib
import inspect
import pydoc
import typing

import pytest

PUBLIC_PACKAGES = "checkpoints clients compat config errors local plugins prompts regularizers testing tokenizers types"
PACKAGES = ["tinkex_sync", *(f"tinkex_sync.{name}" for name in PUBLIC_PACKAGES.split())]


def public_names():
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            yield pytest.param(getattr(module, name), id=f"{package}.{name}")


def is_ours(value):
    return getattr(value, "__module__", "").startswith("tinkex_sync")


def functions_of(value):
    """Yield the functions that a class defines, or the function itself."""
    if inspect.isfunction(value):
        yield value
    elif inspect.isclass(value) and is_ours(value):
        for name, member in vars(value).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if inspect.isfunction(function) and is_ours(function) and not name.startswith("_"):
                yield function


@pytest.mark.parametrize("value", list(public_names()))
def test_help_works_on_every_public_name(value) -> None:
    if not isinstance(value, str):  # help() looks a text up as a topic
        assert pydoc.render_doc(value)


@pytest.mark.parametrize("value", list(public_names()))
def test_every_public_class_and_function_has_a_signature_and_evaluable_annotations(value) -> None:
    optional = {name: importlib.import_module(name) for name in ("numpy",)}
    optional["torch"] = type("torch", (), {"Tensor": object})
    if not (is_ours(value) and (inspect.isclass(value) or inspect.isfunction(value))):
        return
    # Python has no signature for subclasses of these built-in types.
    if not (inspect.isclass(value) and issubclass(value, (int, str, dict))):
        inspect.signature(value)
    typing.get_type_hints(value)
    for function in functions_of(value):
        inspect.signature(function)
        typing.get_type_hints(function, localns=optional)
