"""A forked child can use every module, whatever lock a thread of its parent holds at the fork."""

from __future__ import annotations

import importlib
import os
import pkgutil
import threading
from typing import Dict

import pytest

import tinkex_sync
from tinkex_sync.concurrency.primitives import ModuleLock

LOCK_TYPES = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Semaphore,
    threading.Event,
)


def module_globals() -> Dict[str, object]:
    """Return every global of every module of the package by its full name, those of its optional parts included."""
    found = {}
    for info in pkgutil.walk_packages(tinkex_sync.__path__, "tinkex_sync."):
        if info.name.rpartition(".")[2] == "__main__":
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError:  # an extra that is not installed
            continue
        found.update({f"{info.name}.{name}": value for name, value in vars(module).items()})
    return found


def test_every_lock_of_a_module_is_renewed_in_a_forked_child() -> None:
    plain = [name for name, value in module_globals().items() if isinstance(value, LOCK_TYPES)]
    assert plain == [], "use ModuleLock"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_locks_that_a_thread_of_the_parent_holds_are_free_in_the_child() -> None:
    locks = list({id(value): value for value in module_globals().values() if isinstance(value, ModuleLock)}.values())
    assert len(locks) >= 4
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.__enter__()
        held.set()
        release.wait(60.0)
        for lock in locks:
            lock.__exit__()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30.0)
        child = os.fork()
        if child == 0:
            os._exit(sum(not lock._lock.acquire(timeout=1.0) for lock in locks))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        release.set()
        thread.join(30.0)
