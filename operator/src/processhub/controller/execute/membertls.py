"""The TLS of a hub's members: the certificates that the operator issues, and whether TLS is required.

A member's request for a certificate is in the status of its slice 0, which nobody else can write (docs/protocol.md,
rule 22). That is the proof that it is this member's.

TLS is required from when every member that runs accepts it. In a hub that is created with TLS that is from the start.
In one that ran without, it is when its last member has a certificate. It remains required then, also for members that
join.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from processhub.api.hub import TlsStatus
from processhub.api.naming import headless_service, server_name
from processhub.api.slice import SliceTls
from processhub.cluster.timestamps import utc_now
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.execute.slicewriter import SliceWriter
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.core.listing import listed
from processhub.core.model.membership import Phase

if TYPE_CHECKING:
    from processhub.controller.authority.keeper import AuthorityKeeper

log = logging.getLogger(__name__)


class HubTls:
    """The TLS of one hub in one round. Without a ``keeper`` the operator has none."""

    def __init__(self, round: Round, keeper: AuthorityKeeper | None, members: Mapping[str, Member]) -> None:
        self._round, self._keeper, self._members = round, keeper, members
        self._problems: dict[str, str] = {}  # by member
        self._without = [member.name for member in members.values() if _runs_without(member)]
        self.required = (
            keeper is not None
            and bool(keeper.trusted)
            and (not self._without or any(_of(member).required for member in members.values()))
        )

    def of(self, member: Member) -> SliceTls:
        """What slice 0 of the member is to say."""
        keeper, present = self._keeper, _of(member)
        if keeper is None:
            return SliceTls()
        if keeper.state is None:
            # What is on record stays while the authority can't be read, and holds for members that join.
            return present if member.first is not None else self._on_record()
        return SliceTls(
            authorities=keeper.trusted, certificate=self._certificate(keeper, member), required=self.required
        )

    def _on_record(self) -> SliceTls:
        """What the slices of a member that requires TLS say, without its certificate."""
        for member in self._members.values():
            if _of(member).required:
                return msgspec.structs.replace(_of(member), certificate="")
        return SliceTls()

    def _certificate(self, keeper: AuthorityKeeper, member: Member) -> str:
        """The member's certificate: the present one, or a new one if there is a request that it is not good for."""
        from processhub.controller.authority.certificates import CertificateProblem, Names, good_for, sign

        first, state, present = member.first, keeper.state, _of(member).certificate
        if first is None or state is None:
            return present
        status = first.present.status
        if not status.tls.request or status.holder != member.holder:
            return present
        hub, namespace = self._round.hub.metadata.name, self._round.hub.metadata.namespace
        own = server_name(hub, namespace)
        names = Names(
            (own, f"{own}.cluster.local", *_pod_names(member, hub, namespace)),
            (member.pod.status.pod_ip,) if member.pod is not None and member.pod.status.pod_ip else (),
        )
        now = utc_now()
        try:
            seconds = good_for(present, status.tls.request, state.current, names, now) if present else 0.0
            if not seconds:
                lifetime = keeper.settings.certificate_seconds
                present = sign(state.current, status.tls.request, names, now, lifetime)
                seconds = good_for(present, status.tls.request, state.current, names, now)
                log.info("hub %s/%s: certificate issued for member %s", namespace, hub, member.name)
        except CertificateProblem as problem:
            self._problems[member.name] = str(problem)
            return present
        self._round.again_in(max(1.0, seconds))
        return present

    @property
    def status(self) -> TlsStatus | None:
        """The Hub's status.tls."""
        keeper, hub = self._keeper, self._round.hub
        if keeper is None:
            return None
        message = keeper.problem
        if self._problems:
            message = "; ".join(f"member {name}: {why}" for name, why in sorted(self._problems.items())[:4])
        elif self._without and not self.required and not message:
            do = "does" if len(self._without) == 1 else "do"
            message = f"not required yet: {listed(self._without)} {do} not accept TLS yet"
        return TlsStatus(
            required=self.required or (keeper.state is None and hub.status.tls is not None and hub.status.tls.required),
            server_name=server_name(hub.metadata.name, hub.metadata.namespace),
            authorities=keeper.trusted or (hub.status.tls.authorities if hub.status.tls is not None else ""),
            message=message[:1024],
        )


async def renew_certificates(
    round: Round, memory: ExecuteMemory, keeper: AuthorityKeeper, members: Mapping[str, Member]
) -> TlsStatus | None:
    """Renew what is due while the Hub is not accepted, so that nothing else is written; returns its status.tls."""
    tls = HubTls(round, keeper, members)
    writer = SliceWriter(round, memory, fingerprint="", partitioned=False, tls=tls.of)
    for member in members.values():
        if member.first is not None and member.first.present.spec.term == round.term:
            what = f"the certificate of member {member.name} can't be written"
            await round.steps.take(what, partial(writer.write_tls, member))
    return tls.status


def _of(member: Member) -> SliceTls:
    return member.first.present.spec.tls if member.first is not None else SliceTls()


def _runs_without(member: Member) -> bool:
    """Whether the member has an agent that does not accept TLS. Before its first report it counts as one that does."""
    if member.phase is Phase.GONE or member.first is None:
        return False
    status = member.first.present.status
    return bool(status.holder) and not status.tls.offered


def _pod_names(member: Member, hub: str, namespace: str) -> tuple[str, ...]:
    """The DNS name of a StatefulSet's pod."""
    if member.pod is None or member.pod.metadata.name != member.name:
        return ()
    return (f"{member.name}.{headless_service(hub)}.{namespace}.svc",)
