"""The address of the API server, and the credentials for it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class ConfigError(Exception):
    """There is neither a usable kubeconfig nor a service account. The message says what was looked for."""


@dataclass(frozen=True)
class Credentials:
    """The files for TLS, as PEM; empty if there are none. ``verify`` False: any server is accepted."""

    authority: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    verify: bool = True


@dataclass(frozen=True)
class Config:
    """The address of an API server, and how to authenticate there."""

    host: str
    namespace: str
    ssl: ssl.SSLContext | bool
    # Returns the whole value of the Authorization header, fresh at each call.
    token: Callable[[], Awaitable[str | None]]
    server_hostname: str | None = None
    credentials: Credentials = Credentials()  # the files that ``ssl`` was made from, for programs that make their own
