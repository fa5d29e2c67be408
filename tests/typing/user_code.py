"""Ordinary user code. Type checkers read it; nothing runs it."""

from __future__ import annotations

from typing_extensions import assert_type

from tinkex_sync import ServiceClient, types
from tinkex_sync.futures import Future


def capabilities(service: ServiceClient) -> None:
    assert_type(service.get_server_capabilities(timeout=5.0), types.GetServerCapabilitiesResponse)
    assert_type(service.submit_get_server_capabilities(), Future[types.GetServerCapabilitiesResponse])
    service.get_server_capabilities(timeout="5")  # type: ignore[arg-type]
    service.submit_get_server_capabilities(5.0)  # type: ignore[call-arg]
