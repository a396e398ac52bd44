"""The proxy of a request, compared with the choice of requests, and ``Retry-After``."""

import time
from email.utils import formatdate

import pytest
from requests.utils import get_environ_proxies, select_proxy

from gpt2.core.errors import UserError
from gpt2.core.web import on_this_machine, proxy_for, seconds_to_wait

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    "host", ["judge.example", "10.1.2.3", "[2001:db8::1]:80", "a.b.example:81"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTP_PROXY": "http://proxy:3128"},
        {"https_proxy": "http://proxy:3128"},
        {"ALL_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://other:1"},
        {"ALL_PROXY": "http://proxy:3128", "NO_PROXY": ".example,10.0.0.0/8"},
        {"HTTP_PROXY": "http://me:secret@proxy", "no_proxy": "*"},
    ],
)
def test_other_hosts_have_the_proxy_that_requests_chooses(monkeypatch, environment, scheme, host):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    url = f"{scheme}://{host}/a"
    assert proxy_for(url, "PySocks") == select_proxy(url, get_environ_proxies(url))


def test_a_proxy_without_a_scheme_is_an_http_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "proxy:3128")
    assert proxy_for("http://judge.example", "socksio") == "http://proxy:3128"


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:80", "localhost.", "judge.localhost", "127.0.0.1:11434"),
        *("127.8.9.1", "[::1]:8080", "[::ffff:127.0.0.1]", "0.0.0.0:11434", "[::]"),
    ],
)
def test_this_machine_has_no_proxy(monkeypatch, host):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setenv("HTTP_PROXY", "nonsense://")
    assert on_this_machine(f"http://{host}/a")
    assert proxy_for(f"http://{host}/a", "socksio") is None


def test_other_names_are_not_this_machine():
    for host in ("judge", "localhost.example", "128.0.0.1", "[::2]", "127.0.0.1.example"):
        assert not on_this_machine(f"http://{host}/")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS5"])
def test_socks_needs_a_package(monkeypatch, scheme):
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://me:secret@proxy:1080")
    with pytest.raises(UserError, match=r"SOCKS needs .*pip install socksio.*NO_PROXY") as caught:
        proxy_for("https://judge.example/v1", "socksio")
    assert "secret" not in str(caught.value)
    assert "judge.example to NO_PROXY" in str(caught.value)


@pytest.mark.parametrize("proxy", ["ftp://proxy", "http://", "http://proxy:port", "socks4://proxy"])
def test_invalid_proxies(monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UserError, match="not an address of an HTTP or SOCKS proxy"):
        proxy_for("http://judge.example", "socksio")


def test_seconds_and_dates_to_wait():
    assert [seconds_to_wait(text) for text in ("0", "7", " 7 ", "1.5")] == [0, 7, 7, 1.5]
    assert 8 < seconds_to_wait(formatdate(time.time() + 10, usegmt=True)) <= 10
    for text in ("", "soon", "-1", "1e9", "٣", "inf", formatdate(time.time() - 10, usegmt=True)):
        assert seconds_to_wait(text) == 0
