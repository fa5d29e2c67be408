"""TLS in front of the embedded server, which has none: decrypts connections and forwards their bytes."""

import asyncio
import contextlib
import ssl
import threading
from typing import Iterator
from urllib.parse import urlsplit

__all__ = ["tls_front"]


@contextlib.contextmanager
def tls_front(target: str, context: ssl.SSLContext) -> Iterator[int]:
    """Forward TLS connections to the server at ``target`` until the end of the block; yield the port."""
    loop = asyncio.new_event_loop()
    address = urlsplit(target)

    async def copy(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader, writer):
        upper_reader, upper_writer = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.gather(copy(reader, upper_writer), copy(upper_reader, writer))

    async def end():
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.set_exception_handler(lambda *_: None)  # Clients end connections as they like.
    server = loop.run_until_complete(asyncio.start_server(forward, "127.0.0.1", 0, ssl=context, backlog=1000))
    thread = threading.Thread(target=loop.run_forever, name="tls-front")
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
