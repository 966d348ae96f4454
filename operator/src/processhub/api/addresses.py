"""Addresses in the form that URLs need."""

from __future__ import annotations


def url_host(address: str) -> str:
    """The IP address as the host of a URL: an IPv6 address is put in brackets (RFC 3986, 3.2.2)."""
    return f"[{address}]" if ":" in address else address


def authority(address: str, port: int) -> str:
    """The host and port of a URL, such as ``10.0.0.7:8080`` or ``[fd00::7]:8080``."""
    return f"{url_host(address)}:{port}"
