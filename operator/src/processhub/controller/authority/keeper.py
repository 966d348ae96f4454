"""Keeps the authority in a Secret of the operator's namespace. Only the leader writes it.

The Secret ``processhub-ca`` has ``tls.crt`` and ``tls.key`` of the authority that signs, ``ca.crt`` with all that are
trusted, and what a change from one authority to the next needs. One that exists before the operator starts is used: so
an authority of one's own can be given.
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, NotFoundError
from processhub.cluster.kinds import untyped
from processhub.cluster.timestamps import utc_now
from processhub.controller.authority.certificates import CertificateProblem, KeyPair, check_authority, sequence_of
from processhub.controller.authority.state import AuthorityState, advance, seconds_until_change
from processhub.controller.settings import TlsSettings

SECRET = "processhub-ca"  # noqa: S105 a name
_SECRETS = untyped("v1", "secrets")
_LOOK_SECONDS = 30.0  # Between two looks at the Secrets.
log = logging.getLogger(__name__)


class AuthorityKeeper:
    """The authority of this installation. ``changed()`` is called when members are to get another."""

    def __init__(self, client: Client, namespace: str, settings: TlsSettings, changed: Callable[[], None]) -> None:
        self._client, self._namespace, self.settings, self._changed = client, namespace, settings, changed
        self.state: AuthorityState | None = None
        self.problem = ""  # Why there is no authority yet, or why it can't be kept.

    @property
    def trusted(self) -> str:
        """The certificates of all authorities by which members are verified (PEM), "" before there is one."""
        return self.state.trusted if self.state is not None else ""

    async def run(self) -> None:
        """Keep the authority until cancelled."""
        while True:
            await asyncio.sleep(self._pause())
            await self.look()

    async def look(self) -> None:
        """Read the Secrets, and replace the authority if it is time. A failure is kept as ``problem``."""
        before = self.state, self.problem
        try:
            await self._look()
            self.problem = "" if self.state is not None else self._awaited()
        except (ApiError, CertificateProblem) as error:
            text = error.message if isinstance(error, ApiError) else str(error)
            self.problem = f"Secret {SECRET} in namespace {self._namespace}: {text}"
        except Exception as error:  # whatever somebody wrote into the Secret, it does not end the leader
            log.exception("the authority can't be kept")
            self.problem = f"Secret {SECRET} in namespace {self._namespace} can't be used: {error}"
        if (self.state, self.problem) != before:
            if self.problem:
                log.warning("the authority for members' certificates: %s", self.problem)
            self._changed()

    def _awaited(self) -> str:
        what = f"Secret {self.settings.secret} in namespace {self._namespace}"
        return f"{what} does not exist yet; cert-manager makes it by the issuer of tls.issuerRef"

    def _pause(self) -> float:
        if self.state is None:
            return 1.0
        return max(0.5, min(_LOOK_SECONDS, seconds_until_change(self.state, utc_now(), self.settings.ca_seconds)))

    async def _look(self) -> None:
        now, present = utc_now(), await self._read(SECRET)
        found = _parse(present) if present is not None else None
        given = found.current if found is not None else None
        if self.settings.secret and (issued := await self._read(self.settings.secret)) is not None:
            given = check_authority(_pair(_texts(issued), "tls"))
        state = advance(self.state or found, given, now, self.settings.ca_seconds, self_made=not self.settings.secret)
        if state is None:
            return
        if state != found:
            await self._write(state, present)
        self.state = state

    async def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return await self._client.get(_SECRETS, self._namespace, name)
        except NotFoundError:
            return None

    async def _write(self, state: AuthorityState, present: dict[str, Any] | None) -> None:
        """Write the Secret as it was read. If it has changed since, the API server refuses, and it is read again."""
        data = {name: b64encode(text.encode()).decode() for name, text in _format(state).items()}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data}
        metadata = {"name": SECRET, "namespace": self._namespace, "labels": {"app.kubernetes.io/name": "processhub"}}
        if present is None:
            await self._client.create(_SECRETS, self._namespace, {**body, "metadata": metadata})
        else:
            body = {**present, "data": {**(present.get("data") or {}), **data}}
            await self._client.replace(_SECRETS, self._namespace, SECRET, body)


def _format(state: AuthorityState) -> dict[str, str]:
    upcoming = state.next or KeyPair("", "")
    return {
        "tls.crt": state.current.certificate,
        "tls.key": state.current.key,
        "ca.crt": state.trusted,
        "next.crt": upcoming.certificate,
        "next.key": upcoming.key,
        "next.since": state.since.isoformat() if state.since is not None else "",
        "retired.crt": sequence_of(state.retired),
    }


def _parse(secret: dict[str, Any]) -> AuthorityState:
    """Raises CertificateProblem."""
    texts = _texts(secret)
    current = check_authority(_pair(texts, "tls"))
    try:
        since = datetime.fromisoformat(texts["next.since"]).astimezone(UTC) if texts.get("next.since") else None
    except ValueError:
        since = None
    upcoming = check_authority(_pair(texts, "next")) if texts.get("next.crt") and since else None
    retired = texts.get("retired.crt", "").split("-----END CERTIFICATE-----\n")
    return AuthorityState(
        current=current,
        next=upcoming,
        since=since if upcoming is not None else None,
        retired=tuple(f"{part}-----END CERTIFICATE-----\n" for part in retired if part.strip()),
    )


def _pair(texts: dict[str, str], name: str) -> KeyPair:
    return KeyPair(texts.get(f"{name}.crt", ""), texts.get(f"{name}.key", ""))


def _texts(secret: dict[str, Any]) -> dict[str, str]:
    try:
        return {name: b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
    except ValueError:
        raise CertificateProblem("its data can't be read") from None
