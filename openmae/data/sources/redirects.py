"""Where a server may send us on to: not into our own machine or network, which it may not reach by itself."""

import asyncio
import ipaddress
import socket
from typing import Any

MOST = 10
"""Redirects that are followed for one request."""
CODES = frozenset((301, 302, 303, 307, 308))


async def why_not(origin: Any, target: Any) -> str:
    """Why a request to `origin` (a yarl.URL) is not sent on to `target`; empty where it is."""
    if target.scheme not in ("http", "https") or target.host is None:
        return "that is no web address"
    if origin.scheme == "https" and target.scheme == "http":
        return "that is not encrypted"
    if (origin.host, origin.port) == (target.host, target.port):
        return ""
    there = await _addresses(target)
    if any(address.is_loopback or address.is_link_local or address.is_unspecified for address in there):
        return "that is in this machine"
    if any(address.is_private for address in there) and not all(a.is_private for a in await _addresses(origin)):
        return "that is in a private network"
    return ""


async def _addresses(url: Any) -> list[Any]:
    """Those of its host; none where nobody knows it here, as behind a proxy."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]
