"""The address of the API server, and the credentials for it."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypedDict
from urllib.parse import quote

from multidict import CIMultiDict


class Connection(TypedDict):
    """Options of aiohttp's requests."""

    ssl: ssl.SSLContext | bool
    server_hostname: str | None
    proxy: str | None


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
class Impersonation:
    """The user whose rights count instead of the caller's, as a kubeconfig's ``as`` and kubectl's ``--as`` have it.

    An empty ``user`` impersonates nobody.
    """

    user: str = ""
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def headers(self) -> list[tuple[str, str]]:
        """The headers by which the API server takes each request for one of that user's."""
        if not self.user:
            return []
        found = [("Impersonate-User", self.user), *(("Impersonate-Group", group) for group in self.groups)]
        if self.uid:
            found.append(("Impersonate-Uid", self.uid))
        return found + [(f"Impersonate-Extra-{quote(key)}", value) for key, values in self.extra for value in values]


@dataclass(frozen=True)
class Overrides:
    """What a command line says in place of the kubeconfig, as kubectl's options of these names; empty: nothing.

    ``cluster`` and ``user`` are names of entries of the kubeconfig. ``request_timeout`` is in seconds.
    """

    cluster: str = ""
    user: str = ""
    server: str = ""
    token: str = ""
    certificate_authority: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    impersonation: Impersonation | None = None
    request_timeout: float | None = None


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
    impersonation: Impersonation = Impersonation()
    proxy: str | None = None
    request_timeout: float | None = None  # seconds for each request, in place of the client's own limits

    async def headers(self) -> CIMultiDict[str]:
        """The headers that say who asks; some come several times. Raises ConfigError for a token that is no text."""
        headers = CIMultiDict(self.impersonation.headers())
        try:
            token = await self.token()
        except UnicodeDecodeError as error:
            raise ConfigError(f"the token can't be read: {error}") from error
        if token:
            headers["Authorization"] = token
        if any(not value.isprintable() for value in headers.values()):
            raise ConfigError(
                "the token, or a name to impersonate, contains control characters; write one line of text"
            )
        return headers

    @property
    def connection(self) -> Connection:
        """How aiohttp is to connect: the options of a request that say so."""
        return {"ssl": self.ssl, "server_hostname": self.server_hostname, "proxy": self.proxy}
