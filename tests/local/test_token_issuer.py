"""Tokens that replace the API key."""

from server_calls import Wire, until

from tinkex_sync.local import LocalServer
from tinkex_sync.local.token_issuer import TokenIssuer

TOKENS = {"pjwt_auth_enabled": True}


def test_expired_token_gets_401_with_invalid_token():
    with LocalServer(protocol="0.38", client_config=TOKENS, token_lifetime=0.5) as server, Wire(server) as wire:
        wire.http.headers["X-API-Key"] = wire.ok("auth/token", {})["jwt"]
        responses = until(lambda: [a for a in [wire.post("create_session", {})] if a.status_code == 401])
        rejected = responses[0]
        assert "expired" in rejected.json()["detail"]
        assert 'error="invalid_token"' in rejected.headers["WWW-Authenticate"]


def test_token_is_valid_until_its_lifetime_is_over():
    now = [1000.0]
    issuer = TokenIssuer(60.0, lambda: now[0])
    token = issuer.issue()
    now[0] += 59.0
    assert issuer.find_problem(token) is None
    now[0] += 1.0
    assert issuer.find_problem(token) == "this token has expired"


def test_token_of_another_issuer_is_not_valid():
    assert TokenIssuer(60.0).find_problem(TokenIssuer(60.0).issue()) == "this server did not issue this token"
