"""The embedded server: the Tinker protocol on loopback, with a small model that really learns.

::

    from tinkex_sync.local import LocalServer

    with LocalServer() as server:
        print(server.base_url)

It speaks level 0.7.0; ``LocalServer(protocol="0.38")`` speaks today's protocol, and "both" takes either's requests.

Importing this package loads neither numpy nor flask; they live in the server's own process. They come with
``pip install "tinkex-sync[local]"``.
"""

from .faults import Faults
from .process import LocalServer, local_base_url

__all__ = ["Faults", "LocalServer", "local_base_url"]
