"""A check of encoded request bodies."""

from tinkex_sync.protocol import json_wire


def assert_encoded(request, body):
    """Assert that a request is encoded as ``body``, in its order of keys, and decoded from it."""
    assert list(request.to_wire().items()) == list(body.items())
    assert json_wire.encode(request) == json_wire.encode(body)
    assert type(request).from_wire(body) == request
