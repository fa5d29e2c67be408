"""The two forms of an operation: the blocking method and the method derived from it."""

from __future__ import annotations

import inspect
import pydoc
import threading
import typing
from typing import List, Optional

import pytest

from tinkex_sync.clients.base import CallOperation, Client, blocking, submitted
from tinkex_sync.errors import ClosedError
from tinkex_sync.futures import Future, Operation


class Echo(Client):
    """A client with one operation."""

    @blocking
    def repeat(self, text: str, times: int = 1, *, timeout: Optional[float] = None) -> Operation[List[str]]:
        """Repeat a text.

        Args:
            times: How often, at least 1.
        """
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        return CallOperation(self, "repeat", lambda call, deadline: [text, threading.current_thread().name] * times)

    submit_repeat = submitted(repeat)


@pytest.fixture
def echo(service):
    return Echo(service.session, service.source)


def test_the_blocking_form_runs_in_the_callers_thread(echo):
    assert echo.repeat("a", 2) == ["a", threading.current_thread().name] * 2


def test_the_submitted_form_runs_in_a_worker_and_returns_a_future(echo):
    future = echo.submit_repeat("a", times=1)
    assert isinstance(future, Future)
    text, thread = future.result(10)
    assert text == "a" and thread.startswith("tinkex-work-")


def test_both_forms_raise_argument_errors_in_the_callers_thread(echo):
    for form in (echo.repeat, echo.submit_repeat):
        with pytest.raises(ValueError, match="times must be at least 1"):
            form("a", 0)
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            form("a", timeout=-1)


def test_both_forms_pass_the_timeout_as_a_deadline(service):
    class Clocked(Client):
        @blocking
        def left(self, *, timeout: Optional[float] = None) -> Operation[Optional[float]]:
            return CallOperation(self, "left", lambda call, deadline: deadline and deadline - self.session.clock.time())

        submit_left = submitted(left)

    client = Clocked(service.session, service.source)
    assert client.left() is None
    assert 50 < client.left(timeout=60) <= 60
    assert 50 < client.submit_left(timeout=60).result(10) <= 60


def test_the_submitted_form_of_a_closed_client_fails(echo):
    echo.session.close()
    with pytest.raises(ClosedError):
        echo.submit_repeat("a")


def test_signature_docstring_and_type_hints_of_both_forms():
    text = "(self, text: 'str', times: 'int' = 1, *, timeout: 'Optional[float]' = None)"
    assert str(inspect.signature(Echo.repeat)) == f"{text} -> 'List[str]'"
    assert str(inspect.signature(Echo.submit_repeat)) == f"{text} -> 'Future[List[str]]'"
    assert typing.get_type_hints(Echo.repeat)["return"] == List[str]
    assert typing.get_type_hints(Echo.submit_repeat)["return"] == Future[List[str]]
    assert Echo.submit_repeat.__name__ == "submit_repeat"
    assert Echo.submit_repeat.__qualname__ == "Echo.submit_repeat"
    shown = pydoc.plain(pydoc.render_doc(Echo))
    for line in (
        "submit_repeat(",
        "Start :meth:`repeat` and return its future without waiting.",
        "times: How often, at least 1.",
    ):
        assert line in shown


def test_a_method_without_an_operation_is_refused():
    def method(self) -> int:
        return 1

    with pytest.raises(TypeError, match=r"must be annotated with Operation\[\.\.\.\], got 'int'"):
        blocking(method)
