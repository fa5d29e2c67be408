"""Loading of plugins from entry points, modules and arguments, and its settings."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, List

import pytest
from hook_examples import emit, observers, row, warnings

from tinkex_sync.errors import ConfigError, PluginError
from tinkex_sync.plugins import Observers, PluginStatus
from tinkex_sync.plugins.hookspecs import hookimpl

# Unusable plugins are also reported by warnings; tests below read the log and the report.
pytestmark = pytest.mark.filterwarnings("ignore:plugin .*:RuntimeWarning")

SWITCHES = ["DISABLE_PLUGIN_AUTOLOAD", "DISABLED_PLUGINS", "PLUGINS", "PLUGINS_STRICT"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SWITCHES:
        monkeypatch.delenv("TINKEX_SYNC_" + name, raising=False)


class Silent:
    """A plugin that does nothing."""

    @hookimpl
    def tinkex_call_started(self) -> None:
        pass


def install(folder: Path, distribution: str, entry_points: Dict[str, str], **modules: str) -> None:
    """Create the files of an installed distribution: modules and a dist-info folder."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[other]\nx = no.such\n[tinkex_sync]\n{lines}")


MODULE = """
from tinkex_sync.plugins import hookimpl

CALLS = []

@hookimpl
def tinkex_call_started(operation):
    CALLS.append(operation)

class Maker:
    made = 0

    def __init__(self):
        type(self).made += 1

    @hookimpl
    def tinkex_session_opened(self):
        CALLS.append(self)

maker = Maker()
"""


def only_ours(registry: Observers) -> Dict[str, PluginStatus]:
    """Return the status of the plugins that these tests install, by name. The environment may have others."""
    return {status.name: status for status in registry.report() if (status.distribution or "").startswith("test-")}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_entry_point_may_be_a_module_an_instance_or_a_class(site: Path) -> None:
    install(
        site,
        "test-kinds",
        {"module": "kinds_plugin", "instance": "kinds_plugin:maker", "class": "kinds_plugin:Maker"},
        kinds_plugin=MODULE,
    )
    one, two = Observers(), Observers()
    import kinds_plugin  # type: ignore[import-not-found]

    assert kinds_plugin.Maker.made == 3  # The instance of the module, and one for each Observers.
    emit(one)
    emit(one, "session_opened")
    made = kinds_plugin.CALLS[1:]
    assert kinds_plugin.CALLS[0] == "forward_backward"
    assert len(set(map(id, made))) == 2
    rows = only_ours(two)
    assert list(rows) == ["module", "instance", "class"]
    status = rows["class"]
    assert (status.distribution, status.version, status.origin) == ("test-kinds", "1.2", "entry point")
    assert (status.status, status.hooks) == ("active", ("tinkex_session_opened",))


class ForeignEntryPoint:
    """An entry point of another class than that of importlib.metadata, as importlib_metadata has it."""

    name, group = "foreign", "tinkex_sync"

    def load(self) -> object:
        return Silent


class ForeignFinder:
    """A finder of distributions with such entry points. importlib_metadata installs one when it is imported."""

    def find_spec(self, *_: object) -> None:
        """Find no module."""

    def find_distributions(self, _: object) -> List[object]:
        return [SimpleNamespace(entry_points=[ForeignEntryPoint()], metadata={"Name": "test-foreign"}, version="1.2")]


def test_entry_point_of_another_metadata_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.meta_path", [*sys.meta_path, ForeignFinder()])
    rows = only_ours(Observers())
    assert [(one.name, one.status, one.hooks) for one in rows.values()] == [
        ("foreign", "active", ("tinkex_call_started",))
    ]


def test_entry_point_that_cannot_be_imported_does_not_affect_others(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "test-broken", {"broken": "broken_plugin"}, broken_plugin="raise OSError('no disk')")
    install(site, "test-exits", {"exits": "exits_plugin"}, exits_plugin="import sys; sys.exit(3)")
    install(site, "test-absent", {"absent": "no_such_module", "gone": "works_plugin:Gone", "odd": "a b"})
    install(site, "test-works", {"works": "works_plugin"}, works_plugin=MODULE)
    unreadable = site / "test_unreadable-1.0.dist-info"
    unreadable.mkdir()
    (unreadable / "entry_points.txt").write_text("[tinkex_sync]\nnot a line of an entry point\n")
    rows = only_ours(Observers())
    assert {name: status.status for name, status in rows.items()} == {
        "broken": "failed",
        "exits": "failed",
        "absent": "failed",
        "gone": "failed",
        "odd": "failed",
        "works": "active",
    }
    assert rows["broken"].error == "OSError: no disk"
    assert any("plugin broken is not used: OSError: no disk" in text for text in warnings(caplog))
    with pytest.raises(PluginError, match="not used"):
        Observers(strict=True)


def test_plugin_is_blocked_by_the_name_of_its_entry_point_or_distribution(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(site, "test-one", {"first": "blocked_one"}, blocked_one="raise AssertionError('imported')")
    install(site, "test-two", {"second": "blocked_two"}, blocked_two="raise AssertionError('imported')")
    monkeypatch.setenv("TINKEX_SYNC_DISABLED_PLUGINS", "first, Test_Two,someone-else")
    rows = only_ours(Observers())
    assert [status.status for status in rows.values()] == ["blocked", "blocked"]
    assert not caplog.records
    assert [status.status for status in only_ours(Observers(disabled=["first"])).values()] == ["blocked", "failed"]
    with pytest.raises(TypeError, match="disabled"):
        Observers(disabled="first")


def test_loading_of_entry_points_can_be_disabled(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "test-alone", {"alone": "alone_plugin"}, alone_plugin="raise AssertionError('imported')")
    monkeypatch.setenv("TINKEX_SYNC_DISABLE_PLUGIN_AUTOLOAD", "1")
    assert Observers().report() == []
    assert Observers(autoload=False).report() == []
    assert [status.name for status in only_ours(Observers(autoload=True)).values()] == ["alone"]


def test_modules_are_loaded_from_the_environment_or_the_argument(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (site / "named_plugin.py").write_text(MODULE)
    monkeypatch.setenv("TINKEX_SYNC_PLUGINS", "named_plugin, named_plugin:Maker,no_such_module")
    registry = observers()
    assert [(status.name, status.origin, status.status) for status in registry.report()] == [
        ("named_plugin", "module", "active"),
        ("named_plugin:Maker", "module", "active"),
        ("no_such_module", "module", "failed"),
    ]
    assert observers(modules=[]).report() == []


def test_built_in_plugin_is_named_after_its_module_and_can_be_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Silent()
    assert row(observers(builtin=[plugin])).name == "test_loading"
    assert row(observers(builtin=[plugin])).origin == "builtin"
    monkeypatch.setenv("TINKEX_SYNC_DISABLED_PLUGINS", "test-loading")
    assert row(observers(builtin=[plugin])).status == "blocked"


def test_plugins_passed_as_arguments_are_never_blocked_and_are_called_first() -> None:
    order = []

    class One:
        @hookimpl
        def tinkex_call_started(self) -> None:
            order.append("builtin")

    class Two:
        @hookimpl
        def tinkex_call_started(self) -> None:
            order.append("argument")

    registry = observers(Two, builtin=[One()], disabled=["test_loading", "Two"])
    emit(registry)
    assert order == ["argument"]
    registry = observers(Two, builtin=[One()])
    order.clear()
    emit(registry)
    assert order == ["argument", "builtin"]


@pytest.mark.parametrize("name", ["DISABLE_PLUGIN_AUTOLOAD", "PLUGINS_STRICT"])
def test_invalid_environment_variable_is_named_in_the_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKEX_SYNC_" + name, "maybe")
    with pytest.raises(ConfigError, match=f"TINKEX_SYNC_{name} must be 1 or 0, not 'maybe'"):
        Observers()
