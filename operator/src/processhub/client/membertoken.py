"""The token for requests to members: this pod's own, or one of the hub's service account by TokenRequest."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec

from processhub.api.naming import AUDIENCE, member_account
from processhub.client.errors import NotAllowed
from processhub.client.session import Session
from processhub.client.writes import with_retries
from processhub.cluster.errors import ApiError, ForbiddenError, NotFoundError, readable
from processhub.cluster.kinds import untyped

_ACCOUNTS = untyped("v1", "serviceaccounts")
_SECONDS = 3600
_MARGIN = 300.0  # seconds before its expiry at which a token is replaced


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    expiration_seconds: float


class _Status(msgspec.Struct, frozen=True):
    token: str


class _TokenRequest(msgspec.Struct, frozen=True):
    spec: _Spec  # as granted
    status: _Status


class MemberToken:
    """The token of one client."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._token, self._until = "", 0.0
        self._lock = asyncio.Lock()

    async def get(self, *, fresh: bool = False) -> str:
        """Return the token; ``fresh``: request a new one. Raises NotAllowed, HubError."""
        file = os.environ.get("HUB_TOKEN_FILE")
        if file:
            try:
                token = Path(file).read_text(encoding="utf-8").strip()  # noqa: ASYNC240 in memory; the kubelet renews it
            except OSError as error:
                raise _unusable(file, error.strerror or str(error)) from None
            except UnicodeDecodeError:
                raise _unusable(file, "it is no text") from None
            if not token.isprintable():
                raise _unusable(file, "it has several lines, or control characters")
            return token
        async with self._lock:
            if fresh or time.monotonic() >= self._until:
                await self._request()
            return self._token

    async def _request(self) -> None:
        session, account = self._session, member_account(self._session.name)
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [AUDIENCE], "expirationSeconds": _SECONDS},
        }
        what = f"no token for requests to hub {session.name}"
        try:
            path = _ACCOUNTS.path(session.namespace, account, "token")
            # Nothing is stored, so it may be sent again as a read is: the API server may restart just now.
            answer = await with_retries(lambda: session.client.raw("POST", path, body=body), reads=True)
            with readable("a token"):
                found = msgspec.json.decode(answer, type=_TokenRequest)
        except NotFoundError:
            raise NotAllowed(
                f"{what}: its service account {account} does not exist (yet); the operator creates it",
                401,
                "unauthorized",
            ) from None
        except ForbiddenError as error:
            raise NotAllowed(
                f"{what}: {error.message}; ask for the verb create on serviceaccounts/token of {account}, or set"
                f" HUB_TOKEN_FILE to a token for the audience {AUDIENCE}",
                403,
                "forbidden",
            ) from None
        except ApiError as error:
            raise NotAllowed(f"{what}: {error.message}", 401, "unauthorized") from error
        # Not by the time of its expiry: a clock that is ahead of the server's would ask for a token at each request.
        self._token = found.status.token
        self._until = time.monotonic() + found.spec.expiration_seconds - _MARGIN


def _unusable(file: str, why: str) -> NotAllowed:
    return NotAllowed(f"HUB_TOKEN_FILE {file} can't be read: {why}", 401, "unauthorized")
