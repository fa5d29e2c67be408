"""The faults of the bench: what happens to a share of the requests between client and server."""

from typing import Dict, NamedTuple, Tuple

__all__ = ["FAULTS", "MIX", "Fault"]

PAGE = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>gateway</body></html>"


class Fault(NamedTuple):
    """What a proxy does to one request.

    ``forwards`` tells whether the server gets the request, and ``action`` names the method of the proxy that ends it.
    """

    meaning: str
    action: str
    forwards: bool = False
    #: Share of the requests that it happens to.
    share: float = 0.1
    status: int = 0
    headers: Tuple[Tuple[str, str], ...] = ()
    body: str = ""
    #: Seconds, for faults that take time.
    seconds: float = 0.0


HTML = ("Content-Type", "text/html")
JSON = ("Content-Type", "application/json")

FAULTS: Dict[str, Fault] = {
    "reset_before": Fault("the connection is reset before the server gets the request", "reset"),
    "reset_after": Fault("the connection is reset instead of the response", "reset", True),
    "closed_before": Fault("the connection is closed before the server gets the request", "close"),
    "closed_after": Fault("the connection is closed instead of the response", "close", True),
    "closed_idle": Fault("the connection is closed after a response, without notice", "close_idle", True),
    "half_head": Fault("the response ends within its headers", "half_head", True),
    "half_body": Fault("the response ends within its body", "half_body", True),
    "garbage": Fault("random bytes instead of a response", "garbage", True),
    "slow": Fault("the response comes 50 ms later", "slow", True, seconds=0.05),
    "drip": Fault("the response comes in pieces of 20 bytes", "drip", True),
    "silence": Fault("no response, until the client gives up", "silence", True, share=0.005, seconds=6.0),
    "twice": Fault("the server gets the request twice", "twice", True),
    "bad_gateway": Fault("502 with a page; the server gets nothing", "respond", False, 0.1, 502, (HTML,), PAGE),
    "lost_behind_502": Fault("502 with a page, after the server has worked", "respond", True, 0.1, 502, (HTML,), PAGE),
    "unavailable": Fault("503 with Retry-After", "respond", False, 0.1, 503, (HTML, ("Retry-After", "1")), PAGE),
    "gateway_timeout": Fault("504, after the server has worked", "respond", True, 0.1, 504, (HTML,), PAGE),
    # A 500 with "detail" that three polls in a row return is the failure of the operation itself.
    "server_error": Fault(
        "500 with JSON, without a detail", "respond", False, 0.1, 500, (JSON,), '{{"message": "internal error"}}'
    ),
    "request_timeout": Fault("408 without a queue state", "respond", False, 0.1, 408, (JSON,), "{{}}"),
    "rate_limit": Fault("429 with Retry-After", "respond", False, 0.02, 429, (JSON, ("Retry-After", "1")), "{{}}"),
    "login_page": Fault("200 with the page of a login", "respond", True, 0.1, 200, (HTML,), PAGE),
    "firewall": Fault("403 with a page", "respond", False, 0.1, 403, (HTML,), PAGE),
}
#: One of all others for each request that is hit.
MIX = "mix"
