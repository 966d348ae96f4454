"""The certificate of a member, and which of its connections use TLS.

The operator's order is in slice 0, the agent's report in the status of that slice:

    operator → agent:  spec.tls.authorities   the agent makes a key and a request for a certificate
    agent → operator:  status.tls.request     the operator signs it: only this member may write that status
    operator → agent:  spec.tls.certificate   the agent accepts TLS, beside plain HTTP
    agent → operator:  status.tls.offered     other members use TLS to this one
    operator → agent:  spec.tls.required      all members accept TLS: requests without it are refused

A renewed certificate comes the same way as the first. It is used for all connections that are opened from then on.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

from processhub.agent.env import Environment
from processhub.agent.listeners import Listeners
from processhub.agent.tls.keys import certificate_request
from processhub.api.addresses import authority
from processhub.api.naming import server_name
from processhub.api.slice import RegistrySlice, SliceTls, TlsReport
from processhub.cluster.trust import trusting

log = logging.getLogger(__name__)
_NOBODY = trusting("")  # trusts no authority


class MemberTls:
    """The TLS of one member. ``changed`` is notified when the report or what the server accepts has changed."""

    def __init__(self, env: Environment) -> None:
        self.changed: Listeners[()] = Listeners()
        self.server_name = server_name(env.hub, env.namespace)
        self.server: ssl.SSLContext | None = None  # for connections to this member; None: it has no certificate yet
        self._folder = env.run_dir / "tls"
        self._order = SliceTls()
        self._request = ""
        self._loaded = ""  # the certificate that ``server`` uses
        self._client: ssl.SSLContext | None = None  # for connections to other members
        self._offering: dict[str, str] = {}  # by slice: the address of its member, of members that accept TLS
        self._offers: frozenset[str] = frozenset()  # these addresses

    @property
    def required(self) -> bool:
        """Whether requests that come without TLS are refused."""
        return self._order.required

    @property
    def missing(self) -> bool:
        """Whether TLS is required, and the operator has not issued a certificate for this member's key yet."""
        return self.required and self.server is None

    @property
    def report(self) -> TlsReport:
        """What the agent reports to the operator."""
        if not self._order.authorities:
            return TlsReport()
        return TlsReport(request=self._request, offered=self.server is not None)

    def take(self, order: SliceTls) -> None:
        """Take the order of the operator, as it is in slice 0."""
        before, former = self._order, self.report
        if order == before:
            return
        self._order = order
        if order.authorities != before.authorities:
            self._verify_by(order.authorities)
        if order.authorities:
            self._identify()
        if self.report != former or order.required != before.required:
            self.changed.notify()

    def _verify_by(self, authorities: str) -> None:
        try:
            self._client = trusting(authorities) if authorities else None
        except ssl.SSLError as error:  # the authorities that were trusted before remain
            log.error("the authorities of the hub's certificates can't be read: %s", error)

    def _identify(self) -> None:
        """Make the key, and load the certificate that the operator issued for it."""
        files = self._folder / "tls.key", self._folder / "tls.crt"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._request:
                self._request = certificate_request(files[0], self.server_name)
            certificate = self._order.certificate
            if not certificate or certificate == self._loaded:
                return
            files[1].write_text(certificate)
            _accepting().load_cert_chain(files[1], files[0])  # a pair that does not match would spoil the one in use
            server = self.server or _accepting()
            server.load_cert_chain(files[1], files[0])
        except ssl.SSLError as error:
            # It was issued for the key of an earlier pod: the next one is for this agent's request.
            log.info("the certificate is not for this member's key: %s", error)
        except OSError as error:
            log.error("TLS can't be offered: %s", error)
        else:
            self.server, self._loaded = server, certificate
            log.info("TLS is offered with a certificate for %s", self.server_name)

    def registry_changed(self, old: RegistrySlice | None, new: RegistrySlice | None) -> None:
        """Note which members accept TLS."""
        item = new or old
        if item is None:
            return
        name = item.metadata.name
        offer = ""
        if new is not None and new.status.tls.offered and new.status.address:
            offer = authority(new.status.address, new.status.port)
        if self._offering.get(name, "") == offer:
            return
        self._offering[name] = offer
        self._offers = frozenset(self._offering.values()) - {""}

    def base(self, address: str) -> str:
        """The scheme and authority of the URL of a member, by its address (host and port).

        Until TLS is required it is used to the members that offer it, with which tokens and states are encrypted.
        """
        encrypted = self.required or (self._client is not None and address in self._offers)
        return f"https://{address}" if encrypted else f"http://{address}"

    @property
    def trust(self) -> ssl.SSLContext | None:
        """By which other members are verified; None if no TLS is used to them."""
        return self._client or (_NOBODY if self.required else None)

    def verification(self) -> dict[str, Any]:
        """The arguments of a request of aiohttp by which another member is verified, at whatever address it is."""
        return {} if self.trust is None else {"ssl": self.trust, "server_hostname": self.server_name}


def _accepting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
