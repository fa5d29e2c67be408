"""Diagnoses of errors that the servers of test_command.py do not cause."""

import ssl

import pytest

from tinkex_sync import errors
from tinkex_sync.cli.doctor.findings import diagnose_connection, diagnose_session
from tinkex_sync.config import Config


def certificate_error(code):
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code, error.verify_message = code, "message of OpenSSL"
    return error


@pytest.mark.parametrize(
    ("code", "text", "remedy"),
    [
        (9, "is not valid yet (message of OpenSSL)", "Check the clock"),
        (20, "from an authority that is not trusted", "SSL_CERT_FILE"),
        (7, "cannot be verified (message of OpenSSL)", "SSL_CERT_FILE"),
    ],
)
def test_a_certificate_problem_is_found_inside_other_errors(code, text, remedy):
    outer = errors.APIConnectionError("failed")
    outer.__cause__ = OSError(certificate_error(code))
    found = diagnose_connection(outer, "https://x", None, 5.0)
    assert (found.verdict, found.fault) == ("failed", "TLS")
    assert text in found.text
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("error", "proxy", "fault"),
    [
        (ssl.SSLError("[SSL] HANDSHAKE_FAILURE"), None, "TLS"),
        (OSError("Tunnel connection failed: 403 Forbidden"), "http://proxy", "proxy"),
        (errors.status_error(400, body="The plain HTTP request was sent to HTTPS port", headers={}), None, "TLS"),
        (errors.status_error(407, body=None, headers={}), None, "proxy"),
        (OSError("reset"), None, "HTTP"),
    ],
)
def test_a_connection_error_names_the_part_that_failed(error, proxy, fault):
    assert diagnose_connection(error, "https://x", proxy, 5.0).fault == fault


def test_a_status_below_500_shows_that_the_server_responds():
    error = errors.status_error(404, body=None, headers={})
    assert diagnose_connection(error, "https://x", None, 5.0).verdict == "ok"


def test_a_session_error_contains_neither_the_key_nor_a_page():
    config = Config(base_url="https://x", api_key="tml-secret")
    error = errors.APIConnectionError("no response for tml-secret <!DOCTYPE html>\n<html>page</html>")
    found = diagnose_session(error, config)
    assert found.fault == "address"
    assert "tml-secret" not in found.text
    assert "page" not in found.text.replace("(an HTML page)", "")
    assert diagnose_session(errors.APIConnectionError("reset"), config).fault == "HTTP"
