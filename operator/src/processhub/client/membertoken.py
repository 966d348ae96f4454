"""The token for requests to members: this pod's own, or one of the hub's service account by TokenRequest."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import datetime
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


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    token: str
    expiration_timestamp: str


class _TokenRequest(msgspec.Struct, frozen=True):
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
                return Path(file).read_text(encoding="utf-8").strip()  # noqa: ASYNC240 in memory; the kubelet renews it
            except OSError as error:
                raise NotAllowed(
                    f"HUB_TOKEN_FILE {file} can't be read: {error.strerror}", 401, "unauthorized"
                ) from None
        async with self._lock:
            if fresh or time.time() > self._until:
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
            answer = await with_retries(lambda: session.client.raw("POST", path, body=body))
            with readable("a token"):
                found = msgspec.json.decode(answer, type=_TokenRequest).status
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
        ends = datetime.fromisoformat(found.expiration_timestamp).timestamp()
        self._token, self._until = found.token, ends - _MARGIN
