"""Authorization of callers: ServiceAccount tokens for the audience ``processhub``, checked by the API server.

Any account of the hub's namespace may send requests. Other accounts need the verb ``create`` on ``hubs/call``. A
verdict is valid for 10 s. If the API server can't be reached, an earlier verdict stays valid for some minutes more:
children run on during an outage, and so do their requests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections import OrderedDict
from dataclasses import dataclass

import msgspec

from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.api.meta import GROUP
from processhub.api.naming import AUDIENCE, member_account
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError

log = logging.getLogger(__name__)
_FRESH_SECONDS = 10.0
_STALE_SECONDS = 300.0
_MAX_WAIT_SECONDS = 1.0  # how long to wait for the API server while an earlier verdict is still usable
# <hub>-<ordinal>, or <hub>-<five characters> of a DaemonSet. The Pods of pod children have longer names.
_MEMBER_POD = re.compile(r".+-[a-z0-9]{1,5}")
_POD_NAME = "authentication.kubernetes.io/pod-name"  # in the extra fields of a token that is bound to a pod
_VERDICTS_MAX = 4096
# Tokens that are reviewed, and at once: anybody may send some, and the member's own requests need connections too.
_CHECKS_MAX, _REVIEWS_MAX = 1000, 16
_RETRY_AFTER = 1  # seconds
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, list[str]] = {}


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    audiences: tuple[str, ...] = ()
    user: _User = _User()
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool = False
    reason: str = ""


class _AccessReview(msgspec.Struct, frozen=True):
    status: _AccessStatus = _AccessStatus()


@dataclass(frozen=True, slots=True)
class _Verdict:
    at: float  # monotonic seconds
    problem: tuple[int, str, str] | None  # the status, code and detail to answer with; None: access is granted
    member: bool = False


class Access:
    """The access check of one member."""

    def __init__(self, env: Environment, client: Client) -> None:
        self._env, self._client = env, client
        self._accounts = f"system:serviceaccount:{env.namespace}:"  # of the hub's namespace; the name follows
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._checks: dict[bytes, asyncio.Task[_Verdict]] = {}
        self._reviewing = asyncio.Semaphore(_REVIEWS_MAX)

    async def check(self, authorization: str | None, *, members_only: bool = False) -> None:
        """Return if the token in the header grants access; ``members_only``: only for the hub's own members.

        Raises Problem: 401, 403, 429 if many other tokens are being checked, or 503 if the token can't be checked.
        """
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Problem(
                401,
                "unauthorized",
                f"send 'Authorization: Bearer <token>' with a ServiceAccount token for the audience {AUDIENCE}",
            )
        digest = hashlib.sha256(token.encode()).digest()
        verdict = self._verdicts.get(digest)
        loop = asyncio.get_running_loop()
        if verdict is None or loop.time() - verdict.at > _FRESH_SECONDS:
            check = self._checks.get(digest)
            goes_on = verdict is not None and loop.time() - verdict.at < _STALE_SECONDS
            if check is None and len(self._checks) < _CHECKS_MAX:
                # One check serves all requests that come with this token at the same time.
                check = self._checks[digest] = loop.create_task(self._review(token, digest))
                check.add_done_callback(lambda _: self._checks.pop(digest, None))
            if check is not None:
                await asyncio.wait((check,), timeout=_MAX_WAIT_SECONDS if goes_on else None)
                if verdict is None or check.done():
                    verdict = check.result()
            elif verdict is None or not goes_on:
                raise Problem(
                    429, "busy", f"{_CHECKS_MAX} other tokens are being checked; try again later", _RETRY_AFTER
                )
        if verdict.problem is not None:
            raise Problem(*verdict.problem)
        if members_only and not verdict.member:
            raise Problem(403, "forbidden", f"only members of hub {self._env.hub} may send this request")

    async def _review(self, token: str, digest: bytes) -> _Verdict:
        async with self._reviewing:
            now = asyncio.get_running_loop().time()
            try:
                problem, user = await self._judge(token)
            except ApiError as error:
                before = self._verdicts.get(digest)
                if before is not None and now - before.at < _STALE_SECONDS:
                    return before
                log.warning("a token can't be checked: %s", error.message)
                return _Verdict(now, (503, "not_ready", f"the token can't be checked now: {error.message}"))
        verdict = self._verdicts[digest] = _Verdict(now, problem, self._is_member(user))
        self._verdicts.move_to_end(digest)
        while len(self._verdicts) > _VERDICTS_MAX:
            self._verdicts.popitem(last=False)
        return verdict

    def _is_member(self, user: _User) -> bool:
        """Whether the token is of a member of this hub.

        Hubs may share an account, and while a hub is rolled to another account its members have different ones. The pod
        that a token is bound to is of one hub: it is named by the hub's StatefulSet or DaemonSet.
        """
        if not user.username.startswith(self._accounts):
            return False
        if pods := user.extra.get(_POD_NAME):
            return all(_MEMBER_POD.fullmatch(pod) and pod.rpartition("-")[0] == self._env.hub for pod in pods)
        return user.username == self._accounts + member_account(self._env.hub)

    async def _judge(self, token: str) -> tuple[tuple[int, str, str] | None, _User]:
        """The status, code and detail to answer with (None grants access), and the user of the token."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        review = msgspec.json.decode(await self._client.raw("POST", _REVIEWS, body=body), type=_Review).status
        if not review.authenticated or AUDIENCE not in review.audiences:
            return (401, "unauthorized", f"the token is not valid for the audience {AUDIENCE}"), _User()
        user = review.user
        if user.username.startswith(self._accounts):
            return None, user
        request = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.username,
                "uid": user.uid,
                "groups": user.groups,
                "extra": user.extra,
                "resourceAttributes": {
                    "namespace": self._env.namespace,
                    "verb": "create",
                    "group": GROUP,
                    "resource": "hubs",
                    "subresource": "call",
                    "name": self._env.hub,
                },
            },
        }
        answer = msgspec.json.decode(await self._client.raw("POST", _ACCESS, body=request), type=_AccessReview)
        if answer.status.allowed:
            return None, user
        why = f"{user.username} may not call children of hub {self._env.hub} in namespace {self._env.namespace}"
        return (403, "forbidden", f"{why}; it needs the verb create on hubs/call there"), user
