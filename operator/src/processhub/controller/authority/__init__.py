"""The authority that signs the members' certificates, where the chart's ``tls.enabled`` is true."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from processhub.cluster.client import Client
from processhub.controller.settings import OperatorSettings

if TYPE_CHECKING:
    from processhub.controller.authority.keeper import AuthorityKeeper


def keeper_of(client: Client, settings: OperatorSettings, changed: Callable[[], None]) -> AuthorityKeeper | None:
    """The keeper of the authority, or None where TLS is off: ``cryptography`` is not imported then."""
    if settings.tls is None:
        return None
    from processhub.controller.authority.keeper import AuthorityKeeper

    return AuthorityKeeper(client, settings.namespace, settings.tls, changed)
