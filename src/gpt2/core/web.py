"""Helpers for HTTP requests: proxies of the environment, and waiting times."""

import email.utils
import re
import time
from importlib import metadata
from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from gpt2.core.errors import UserError

Socks = Literal["PySocks", "socksio"]
"""The optional package that requests (PySocks) or httpx (socksio) needs for a SOCKS proxy."""
SCHEMES: dict[Socks, tuple[str, ...]] = {
    "PySocks": ("socks4", "socks4a", "socks5", "socks5h"),
    "socksio": ("socks5", "socks5h"),
}


def proxy_for(url: str, socks: Socks) -> str | None:
    """The proxy for ``url`` from the environment; None for a direct connection.

    The variables are those of requests and curl: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and
    ``NO_PROXY``. A URL on this machine never has a proxy, which could not reach it.

    Raises:
        UserError: the proxy is not a valid address, or it is a SOCKS proxy and the package
            ``socks`` is not installed.
    """
    proxy = None if on_this_machine(url) else select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    name = f"the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY, {without_password(proxy)}"
    remedy = f"Or add {urlsplit(url).hostname} to NO_PROXY, to connect without a proxy"
    scheme = proxy.partition("://")[0].lower()
    if not _is_address(proxy) or scheme not in ("http", "https", *SCHEMES[socks]):
        raise UserError(f"{name}: not an address of an HTTP or SOCKS proxy. Correct it. {remedy}")
    if scheme in SCHEMES[socks] and not _installed(socks):
        raise UserError(
            f"{name}: SOCKS needs a package that is not installed. "
            f"Run: python -m pip install {socks}. {remedy}"
        )
    return proxy


def without_password(proxy: str) -> str:
    """The address of a proxy without user and password."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def on_this_machine(url: str) -> bool:
    """Whether a URL points to this machine: ``localhost``, a loopback or unspecified address."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def seconds_to_wait(retry_after: str) -> float:
    """Seconds to wait by a ``Retry-After`` header, which holds seconds or a date.

    0 if it is neither, or if the date has passed.
    """
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip(), re.ASCII):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False
