"""Authorities and members' certificates for tests, by the product's own functions."""

from __future__ import annotations

from datetime import UTC, datetime

from processhub.agent.tls.identity import MemberTls
from processhub.api.slice import SliceTls
from processhub.controller.authority.certificates import KeyPair, Names, new_authority, sign

HOUR = 3600.0


def authority() -> KeyPair:
    return new_authority(datetime.now(UTC), HOUR)


def certify(tls: MemberTls, signer: KeyPair, *, required: bool = True, name: str = "") -> None:
    """Give a member its certificate, as the operator does; it is verified by the same authority."""
    trust = signer.certificate
    tls.take(SliceTls(authorities=trust))
    names = Names((name or tls.server_name,))
    certificate = sign(signer, tls.report.request, names, datetime.now(UTC), HOUR)
    tls.take(SliceTls(authorities=trust, certificate=certificate, required=required))
