"""How a client reaches the members: over TLS where the hub requires it, and then never without.

Whether it does is in the Hub's status, which only the operator writes: nobody who answers in a member's place can have
a client send its token over plain HTTP.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

from processhub.api.naming import server_name
from processhub.client.session import Session
from processhub.cluster.trust import trusting

_PLAIN, _TLS = "http://", "https://"


class MemberConnections:
    """The URLs of a hub's members, and how the members are verified."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._authorities = ""
        self._context: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """The name for which the members' certificates are valid, at whatever address they are reached."""
        return server_name(self._session.name, self._session.namespace)

    def url(self, base: str, path: str) -> str:
        """The URL of a path of the member at the base URL. Plain HTTP becomes TLS where the hub requires it."""
        if self._required and base.startswith(_PLAIN):
            base = _TLS + base.removeprefix(_PLAIN)
        return base + path

    def verification(self, base: str) -> dict[str, Any]:
        """The arguments of a request of aiohttp by which the member at the base URL is verified.

        A base URL with https of another host, as of a gateway that the user set, is verified as any other server is.
        """
        ours = base.startswith(_PLAIN) or urlsplit(base).hostname == self.name
        if not self._required or not ours:
            return {}
        status = self._session.living_hub().status.tls
        authorities = status.authorities if status is not None else ""
        if self._context is None or authorities != self._authorities:
            self._context, self._authorities = trusting(authorities), authorities
        return {"ssl": self._context, "server_hostname": self.name}

    @property
    def _required(self) -> bool:
        status = self._session.living_hub().status.tls
        return status is not None and status.required
