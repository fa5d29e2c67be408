"""Through mitmproxy, which decrypts TLS as the proxies of companies do."""

import pytest
from gateway_programs import authority, mitmproxy
from main_job import MODEL, params, prompt

from tinkex_sync import ServiceClient
from tinkex_sync.errors import APIConnectionError, APIError

pytestmark = pytest.mark.timeout(300)


def test_the_bundle_of_the_environment_makes_interception_work(server, tls, tmp_path, monkeypatch, check_main_job):
    port, trusted = tls("localhost")
    with mitmproxy(tmp_path, trusted=trusted) as gateway:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority(tmp_path)))
        proxies = {"http": gateway.url, "https": gateway.url}
        check_main_job(gateway, "`REQUESTS_CA_BUNDLE`", f"https://localhost:{port}", proxies=proxies)


def test_verify_makes_interception_work_with_a_password(server, tls, tmp_path, check_main_job):
    port, trusted = tls("localhost")
    with mitmproxy(tmp_path, trusted=trusted, password=True) as gateway:
        url = gateway.url.replace("//", "//joe:s3cr3t@")
        settings = {"proxies": {"http": url, "https": url}, "verify": str(authority(tmp_path))}
        check_main_job(gateway, "`verify=`, user and password", f"https://localhost:{port}", slow=False, **settings)


def test_an_authority_that_is_not_trusted_is_final_and_names_proxy_target_and_remedy(tls, tmp_path, record):
    port, trusted = tls("localhost")
    with mitmproxy(tmp_path, trusted=trusted) as gateway:
        settings = {"proxies": {"https": gateway.url}, "load_plugins": False}
        with pytest.raises(APIConnectionError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            ServiceClient(base_url=f"https://localhost:{port}", api_key="k", **settings)
        text = str(caught.value)
        assert gateway.url in text and f"localhost:{port}" in text and "set verify= or REQUESTS_CA_BUNDLE" in text
        assert caught.value.attempts == 1
        record(gateway, "authority not trusted", "session", result="final")


def test_407_of_mitmproxy_is_final_and_names_proxy_target_and_remedy(tls, tmp_path, record):
    port, trusted = tls("localhost")
    with mitmproxy(tmp_path, trusted=trusted, password=True) as gateway:
        settings = {"proxies": {"https": gateway.url}, "verify": trusted, "load_plugins": False}
        with pytest.raises(APIError, match="set user and password of the proxy") as caught:
            ServiceClient(base_url=f"https://localhost:{port}", api_key="k", **settings)
        text = str(caught.value)
        assert gateway.url in text and f"localhost:{port}" in text and caught.value.attempts == 1
        record(gateway, "no password", "session", result="407, final")


def test_a_server_whose_certificate_mitmproxy_rejects_is_named_as_behind_a_gateway(tls, tmp_path, record):
    port, _ = tls("localhost")
    with mitmproxy(tmp_path) as gateway:  # It does not trust the authority of the server.
        proxies = {"https": gateway.url}
        settings = {"proxies": proxies, "verify": str(authority(tmp_path)), "first_contact_timeout": 3.0}
        with pytest.raises(APIError) as caught:
            ServiceClient(
                base_url=f"https://localhost:{port}", api_key="k", load_plugins=False, max_retries=2, **settings
            )
        text = str(caught.value)
        assert "a gateway or login page (mitmproxy" in text and f"localhost:{port}" in text
        record(gateway, "it rejects the certificate of the server", "session", result="502, named")


def test_tls_is_kept_between_requests(server, service, tls, tmp_path):
    port, trusted = tls("localhost")
    with mitmproxy(tmp_path, trusted=trusted) as gateway:
        settings = {"proxies": {"https": gateway.url}, "verify": str(authority(tmp_path)), "load_plugins": False}
        with ServiceClient(base_url=f"https://localhost:{port}", api_key="local", **settings) as client:
            sampler = client.create_sampling_client(base_model=MODEL)
            for number in range(10):
                sampler.sample(prompt(number), 1, params(number))
            assert client.status()["transport"]["connections_opened"] <= 3
