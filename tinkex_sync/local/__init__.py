"""The embedded server: the Tinker protocol, level 0.7.0, on loopback, with a small model that really learns.

::

    from tinkex_sync.local import LocalServer

    with LocalServer() as server:
        print(server.base_url)

Importing this package loads neither numpy nor flask; they live in the server's own process. They come with
``pip install "tinkex-sync[local]"``.
"""

from .faults import Faults
from .process import LocalServer, local_base_url

__all__ = ["Faults", "LocalServer", "local_base_url"]
