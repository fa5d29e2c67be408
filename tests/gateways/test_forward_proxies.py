"""Through squid and a SOCKS proxy: settings, passwords, certificates, and connections that the proxy cuts."""

from datetime import datetime, timedelta, timezone

import pytest
from gateway_programs import microsocks, squid
from main_job import MODEL, params, prompt

from tinkex_sync import ServiceClient
from tinkex_sync.errors import APIConnectionError, APIError

pytestmark = pytest.mark.timeout(300)
NAME = "tinker.example"


def test_squid_that_cuts_polls_loses_nothing(server, tmp_path, check_main_job):
    with squid() as gateway:
        proxies = {"http": gateway.url}
        cut = check_main_job(gateway, "plain HTTP, polls of 7 s, cut after 3 s", server.base_url, proxies=proxies)
    assert cut >= 300


def test_tunnels_that_squid_closes_lose_nothing(server, tls, tmp_path, environment, check_main_job):
    port, bundle = tls(NAME)
    with squid(names=[NAME]) as gateway:
        environment(gateway.url)
        situation = "`HTTPS_PROXY`, CONNECT, tunnels closed after 3 s"
        cut = check_main_job(gateway, situation, f"https://{NAME}:{port}", verify=bundle)
    # Only tunnels whose first poll was cut are counted; others lasted longer.
    assert cut >= 50


def test_squid_with_a_password(server, tls, tmp_path, environment, check_main_job):
    port, bundle = tls(NAME)
    with squid(names=[NAME], password=True) as gateway:
        environment(gateway.url.replace("//", "//joe:s3cr3t@"))
        check_main_job(gateway, "user and password, CONNECT", f"https://{NAME}:{port}", slow=False, verify=bundle)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("credentials", ["", "joe:wrongpass@"], ids=["no password", "wrong password"])
def test_407_of_squid_is_final_and_names_proxy_target_and_remedy(scheme, credentials, tmp_path, record):
    with squid(names=[NAME], password=True) as gateway:
        proxies = {scheme: gateway.url.replace("//", f"//{credentials}")}
        with pytest.raises(APIError, match="set user and password of the proxy") as caught:
            ServiceClient(base_url=f"{scheme}://{NAME}:8000", api_key="k", proxies=proxies, load_plugins=False)
        text = str(caught.value)
        assert gateway.url in text and f"{NAME}:8000" in text and "wrongpass" not in text
        assert caught.value.attempts == 1
        record(gateway, f"{credentials and 'wrong' or 'no'} password, {scheme}", "session", result="407, final")


CERTIFICATES = {
    "expired": ([NAME], {"not_after": datetime.now(timezone.utc) - timedelta(days=1)}, "must be renewed"),
    "of another host": (["other.example"], {}, "base_url="),
}


@pytest.mark.parametrize("certificate", CERTIFICATES)
def test_a_certificate_that_is_not_valid_is_final_and_names_proxy_target_and_remedy(certificate, tls, tmp_path, record):
    names, options, remedy = CERTIFICATES[certificate]
    port, bundle = tls(*names, **options)
    with squid(names=[NAME]) as gateway:
        settings = {"proxies": {"https": gateway.url}, "verify": bundle, "load_plugins": False}
        with pytest.raises(APIConnectionError, match="certificate") as caught:
            ServiceClient(base_url=f"https://{NAME}:{port}", api_key="k", **settings)
        text = str(caught.value)
        assert gateway.url in text and f"{NAME}:{port}" in text and remedy in text
        assert caught.value.attempts == 1
        record(gateway, f"certificate {certificate}", "session", result="final")


def test_a_socks_proxy(server, tmp_path, check_main_job):
    pytest.importorskip("socks", reason="pip install pysocks")
    with microsocks(tmp_path, password=True) as gateway:
        url = gateway.url.replace("http://", "socks5h://joe:s3cr3t@")
        check_main_job(gateway, "`socks5h`, user and password", server.base_url, proxies={"http": url})


def test_tls_through_a_socks_proxy(server, tls, tmp_path, check_main_job):
    pytest.importorskip("socks", reason="pip install pysocks")
    port, bundle = tls("localhost")
    with microsocks(tmp_path) as gateway:
        url = gateway.url.replace("http://", "socks5h://")
        settings = {"proxies": {"http": url, "https": url}, "verify": bundle}
        check_main_job(gateway, "`socks5h`, TLS", f"https://localhost:{port}", slow=False, **settings)


def test_a_wrong_password_of_a_socks_proxy_is_final_and_names_proxy_target_and_remedy(tmp_path, record):
    pytest.importorskip("socks", reason="pip install pysocks")
    with microsocks(tmp_path, password=True) as gateway:
        url = gateway.url.replace("http://", "socks5h://")
        proxies = {"http": url.replace("//", "//joe:wrongpass@")}
        with pytest.raises(APIConnectionError) as caught:
            ServiceClient(base_url=f"http://{NAME}:8000", api_key="k", proxies=proxies, load_plugins=False)
        text = str(caught.value)
        assert url in text and f"{NAME}:8000" in text and "wrongpass" not in text
        assert "set user and password of the proxy" in text
        assert caught.value.attempts == 1
        record(gateway, "wrong password", "session", result="final")


def test_a_request_that_a_proxy_swallows_is_sent_again_and_carried_out_once(
    server, service, counted, tmp_path, logged, record
):
    pytest.importorskip("socks", reason="pip install pysocks")
    with microsocks(tmp_path) as gateway:
        proxies = {"http": gateway.url.replace("http://", "socks5h://")}
        settings = {"proxies": proxies, "submit_timeout": 2.0, "load_plugins": False}
        with ServiceClient(base_url=server.base_url, api_key="local", **settings) as client:
            sampler = client.create_sampling_client(base_model=MODEL)
            sampler.sample(prompt(0), 1, params())
            resumption = gateway.suspend(5.0)
            assert sampler.sample(prompt(1), 1, params(1)).sequences
            resumption.join()
        assert counted()["samples_done"] == 2
        record(gateway, "silent for 5 s, `submit_timeout=2`", "2 samples", result="sent again, carried out once")
