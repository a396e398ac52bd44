"""What every request over HTTP minds: the proxy of the environment, and how long to wait."""

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
"""The package through which requests, or httpx, speaks to a SOCKS proxy; neither comes with it."""
SCHEMES: dict[Socks, tuple[str, ...]] = {
    "PySocks": ("socks4", "socks4a", "socks5", "socks5h"),
    "socksio": ("socks5", "socks5h"),
}


def proxy_for(url: str, socks: Socks) -> str | None:
    """The proxy that the environment names for ``url``; None: ask it directly.

    So it is always on this machine, which no proxy elsewhere can reach. Else the variables hold
    that requests and curl know: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.

    Raises:
        UserError: it is no address, or a SOCKS proxy and the package ``socks`` is not installed.
    """
    proxy = None if on_this_machine(url) else select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    name = f"the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names, {shown(proxy)}"
    remedy = f"Or name {urlsplit(url).hostname} in NO_PROXY, to ask it without a proxy"
    scheme = proxy.partition("://")[0].lower()
    if not _is_address(proxy) or scheme not in ("http", "https", *SCHEMES[socks]):
        raise UserError(f"{name}: not an address of an HTTP or SOCKS proxy. Correct it. {remedy}")
    if scheme in SCHEMES[socks] and not _installed(socks):
        raise UserError(
            f"{name}: SOCKS needs a package that is not installed. "
            f"Run: python -m pip install {socks}. {remedy}"
        )
    return proxy


def shown(proxy: str) -> str:
    """Its address without a user and password."""
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def on_this_machine(url: str) -> bool:
    """Whether a URL names this machine: ``localhost``, a loopback address, or that of all."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def seconds_to_wait(retry_after: str) -> float:
    """Of the header ``Retry-After``, seconds or a date; 0 if it is neither, or the date is past."""
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
