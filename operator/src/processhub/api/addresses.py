"""IP addresses as URLs have them."""

from __future__ import annotations


def url_host(address: str) -> str:
    """The IP address as the host of a URL: an IPv6 address is put in brackets (RFC 3986, 3.2.2)."""
    return f"[{address}]" if ":" in address else address
