"""Bodies that are too large, endless, or shorter than declared: a typed error, in time and with bounded memory."""

import itertools
import pickle
import socket
import threading
import tracemalloc
import zlib

import pytest
import zstandard

from tinkex_sync.concurrency.clock import Clock
from tinkex_sync.concurrency.timer import Timer
from tinkex_sync.config import Config
from tinkex_sync.errors import APIConnectionError, APIResponseValidationError, DeadlineExceeded
from tinkex_sync.http.request import Request
from tinkex_sync.http.transport import Transport

MIB = 1 << 20


@pytest.fixture
def serve():
    """Return a function that starts a server which sends these pieces, in one connection after another."""
    listeners = []

    def start(make_pieces):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run():
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                with accepted:
                    accepted.recv(65536)
                    try:
                        for piece in make_pieces():
                            accepted.sendall(piece)
                    except OSError:
                        pass

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def send():
    """Return a function that sends one request and returns the response."""
    made = []

    def get(url, seconds=20.0, **settings):
        clock = Clock()
        timer = Timer(clock)
        transport = Transport(Config(base_url=url, **settings), timer)
        made.extend([transport, timer])
        return transport.send(Request("get_server_capabilities"), {}, clock.time() + seconds)

    yield get
    for one in made:
        one.close()


def head(**headers):
    lines = [b"HTTP/1.1 200 OK", *(f"{name.replace('_', '-')}: {value}".encode() for name, value in headers.items())]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def gzipped(mebibytes, times=1):
    packed = zlib.compressobj(9, zlib.DEFLATED, 31)
    content = b"".join(packed.compress(b" " * MIB) for _ in range(mebibytes)) + packed.flush()
    for _ in range(times - 1):
        again = zlib.compressobj(9, zlib.DEFLATED, 31)
        content = again.compress(content) + again.flush()
    return content


@pytest.mark.parametrize(
    ("encoding", "make"), [("gzip", gzipped), ("gzip, gzip", lambda size: gzipped(size, 2)), ("deflate", gzipped)]
)
def test_a_small_body_that_decompresses_to_300_mib_is_cut_at_64_mib(serve, send, encoding, make):
    if encoding == "deflate":
        content = zlib.compress(b" " * MIB * 300)
    else:
        content = make(300)
    url = serve(lambda: [head(Content_Encoding=encoding, Content_Length=len(content)), content])
    tracemalloc.start()
    try:
        with pytest.raises(APIResponseValidationError, match="max_response_bytes") as caught:
            send(url)
        assert tracemalloc.get_traced_memory()[1] < 160 * MIB
    finally:
        tracemalloc.stop()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("framing", [{}, {"Content_Length": 1 << 40}, {"Transfer_Encoding": "chunked"}], ids=str)
def test_an_endless_body_is_cut_at_the_limit(serve, send, framing):
    piece = b"x" * MIB
    if "Transfer_Encoding" in framing:
        piece = b"100000\r\n" + piece + b"\r\n"
    url = serve(lambda: itertools.chain([head(**framing)], itertools.repeat(piece)))
    tracemalloc.start()
    try:
        with pytest.raises(APIResponseValidationError, match="the limit max_response_bytes is 10000000"):
            send(url, max_response_bytes=10_000_000)
        assert tracemalloc.get_traced_memory()[1] < 22_000_000
    finally:
        tracemalloc.stop()


def test_an_endless_body_in_small_pieces_ends_at_the_deadline(serve, send):
    pause = threading.Event()
    url = serve(lambda: (pause.wait(0.05) and b"" or one for one in itertools.chain([head()], itertools.repeat(b" "))))
    with pytest.raises(DeadlineExceeded):
        send(url, seconds=0.5)


def test_a_declared_length_larger_than_the_body_is_a_broken_connection(serve, send):
    url = serve(lambda: [head(Content_Length=500 * MIB), b"{}"])
    tracemalloc.start()
    try:
        with pytest.raises(APIConnectionError):
            send(url)
        assert tracemalloc.get_traced_memory()[1] < 10 * MIB
    finally:
        tracemalloc.stop()


def test_a_zstd_body_which_was_not_requested_ends_in_a_validation_error(serve, send):
    content = zstandard.ZstdCompressor().compress(b" " * MIB * 300)
    url = serve(lambda: [head(Content_Encoding="zstd", Content_Length=len(content)), content])
    tracemalloc.start()
    try:
        with pytest.raises(APIResponseValidationError):
            send(url).json()
        # Some versions of urllib3 decompress it, a block of input at a time.
        assert tracemalloc.get_traced_memory()[1] < 700 * MIB
    finally:
        tracemalloc.stop()


def test_a_body_as_large_as_the_limit_is_returned(serve, send):
    content = b"x" * 1_000_000
    url = serve(lambda: [head(Content_Length=len(content)), content])
    assert send(url, max_response_bytes=len(content)).content == content
    with pytest.raises(APIResponseValidationError):
        send(url, max_response_bytes=len(content) - 1)
