"""Names of the official package 0.38.0 that compat does not have: the error contains the reason."""

import inspect
import json
from pathlib import Path

import pytest

import tinkex_sync.compat as tinker
from tinkex_sync.compat import absent

RECORDED = json.loads(Path(__file__).with_name("surface38.json").read_text())


@pytest.mark.parametrize("name", RECORDED["package"])
def test_a_name_of_the_package_exists_or_its_absence_has_a_reason(name):
    assert hasattr(tinker, name) != bool(absent.reason(name))


@pytest.mark.parametrize("name", [name for name in RECORDED["types"] if name != "annotations"])
def test_a_type_exists_or_its_absence_has_a_reason(name):
    if not hasattr(tinker.types, name):
        with pytest.raises(AttributeError, match=f"{name}', which the official package has: "):
            getattr(tinker.types, name)


@pytest.mark.parametrize(
    ("client", "name"), [(client, name) for client, methods in RECORDED["clients"].items() for name in methods]
)
def test_a_method_exists_with_its_parameters_or_its_absence_has_a_reason(client, name):
    cls = getattr(tinker, client)
    method = getattr(cls, name, None)
    if method is None:
        with pytest.raises(AttributeError, match=f"'{client}' has no attribute '{name}', which the official"):
            getattr(cls.__new__(cls), name)
        return
    assert not absent.reason(name)
    assert set(RECORDED["clients"][client][name]) <= set(inspect.signature(method).parameters)


def test_every_reason_is_for_a_name_of_the_official_package():
    methods = {name for rows in RECORDED["clients"].values() for name in rows}
    members = {name for names in RECORDED["members"].values() for name in names}
    modules = {"auth", "proto", "resources"}
    known = {*RECORDED["package"], *RECORDED["types"], *methods, *members, *modules}
    # The private modules of the official package are in no record of its public names.
    assert {name for name in absent.REASONS if not name.startswith("_")} <= known


def test_the_error_for_an_unknown_name_has_no_reason():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'$"):
        _ = tinker.Nothing
