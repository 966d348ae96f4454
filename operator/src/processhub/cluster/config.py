"""Where the API server is and who we are there."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class ConfigError(Exception):
    """Neither a usable kubeconfig nor a service account; the message says what was looked for."""


@dataclass(frozen=True)
class Credentials:
    """What TLS needs, as PEM; empty where there is none. ``verify`` False: any server will do."""

    authority: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    verify: bool = True


@dataclass(frozen=True)
class Config:
    """An API server's address and how to authenticate there."""

    host: str
    namespace: str
    ssl: ssl.SSLContext | bool
    token: Callable[[], Awaitable[str | None]]  # the bearer header's whole value, fresh at each call
    server_hostname: str | None = None
    credentials: Credentials = Credentials()  # what ``ssl`` was made from, for programs that make their own
