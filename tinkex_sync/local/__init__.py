"""The embedded server: the Tinker API on loopback, with a small model that is really trained and sampled.

::

    from tinkex_sync.local import LocalServer

    with LocalServer() as server:
        print(server.base_url)

The server supports protocol 0.7.0. ``LocalServer(protocol="0.38")`` supports protocol 0.38.0, and "both" supports both.

Importing this package imports neither numpy nor flask. The process of the server imports them. They are installed by
``pip install "tinkex-sync[local]"``.
"""

from .faults import Faults
from .process import LocalServer, local_base_url

__all__ = ["Faults", "LocalServer", "local_base_url"]
