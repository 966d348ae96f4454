"""What a replica needs of the cluster before it can lead: the CRDs are served, and its account has the rights.

A replica that lacks one of them is not ready, so that ``helm install --wait`` fails instead of leaving an operator that
does nothing. A standby checks the same: it may have to lead at any time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TypeAlias

import msgspec

from processhub.api.meta import GROUP, VERSION
from processhub.cluster.client import Client
from processhub.cluster.errors import NotFoundError, readable

PLURALS = ("hubs", "children", "childsets", "registryslices")
_AGAIN_SECONDS, _RECHECK_SECONDS = 2.0, 60.0  # Until the next check if something is missing, and if nothing is.
_SERVED = f"/apis/{GROUP}/{VERSION}"
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_Rights: TypeAlias = tuple[tuple[str, str, tuple[str, ...]], ...]
# API group, resource with its subresource, verbs. The chart's ClusterRole has more, without which single steps fail.
_IN_NAMESPACES: _Rights = (
    *((GROUP, plural, ("list", "watch")) for plural in PLURALS),
    *((GROUP, f"{plural}/status", ("patch",)) for plural in ("hubs", "children", "childsets")),
    (GROUP, "registryslices", ("create", "update", "delete")),
    ("", "pods", ("list", "watch")),
    ("coordination.k8s.io", "leases", ("list", "watch", "create")),
    ("apps", "statefulsets", ("patch",)),
)
_IN_THE_CLUSTER: _Rights = (("", "nodes", ("list", "watch")),)
log = logging.getLogger(__name__)


class _Resource(msgspec.Struct, frozen=True):
    name: str


class _Resources(msgspec.Struct, frozen=True):
    resources: tuple[_Resource, ...] = ()


class _Permission(msgspec.Struct, frozen=True):
    allowed: bool = False


class _RightReview(msgspec.Struct, frozen=True):
    status: _Permission = _Permission()


class Prerequisites:
    """Checks what is needed again and again. ``missing`` is a sentence about what is not there, "" if all is.

    What is missing counts when a second look finds the same: an API server that was just started serves no CRDs yet,
    and knows no roles.
    """

    def __init__(self, client: Client, namespaces: tuple[str, ...]) -> None:
        self._client, self._namespaces = client, namespaces
        self.missing = "the CRDs and the rights of this operator's account are not checked yet"
        self._found = ""  # by the latest look

    async def run(self) -> None:
        """Check until cancelled. While the API server does not answer, the latest result stands."""
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 without further checks it would stay unready, or ready, for ever
                log.info("it can't be checked whether all is there: %s", error)
            await asyncio.sleep(_AGAIN_SECONDS if self.missing or self._found else _RECHECK_SECONDS)

    async def look(self) -> None:
        """Check once, and take the result. Raises ApiError."""
        self._take(await self.check())

    async def check(self) -> str:
        """Check once; returns a sentence about the first thing that is missing, or "". Raises ApiError."""
        try:
            served = msgspec.json.decode(await self._client.raw("GET", _SERVED), type=_Resources)
        except NotFoundError:
            served = _Resources()
        names = {resource.name for resource in served.resources}
        if absent := [f"{plural}.{GROUP}" for plural in PLURALS if plural not in names]:
            return f"not installed in this cluster: CRD {', '.join(absent)}; install the chart with crds.enabled=true"
        # One namespace after the other: there may be many, and each of them asks for two dozen rights.
        for namespace, rights in (
            *((name, _IN_NAMESPACES) for name in self._namespaces or ("",)),
            ("", _IN_THE_CLUSTER),
        ):
            if refused := await _refused(self._client, namespace, rights):
                group, resource, verb = refused
                where = f" in namespace {namespace}" if namespace else ""
                return (
                    f"this operator's account may not {verb} {resource}{group and '.'}{group}{where}; the chart's"
                    " ClusterRoles processhub-operator and processhub-operator-cluster have that right"
                )
        return ""

    def _take(self, missing: str) -> None:
        """Log each result once."""
        found_before, self._found = self._found, missing
        if missing == self.missing or missing not in ("", found_before):
            return
        self.missing = missing
        if missing:
            log.error("not ready: %s", missing)
        else:
            log.info("ready: the CRDs are served, and this operator's account has its rights")


async def served_namespaces(client: Client, namespaces: tuple[str, ...]) -> tuple[str, ...]:
    """The namespaces in which this operator's account may list all that it plans by; all if it may in none.

    One that is gone, or whose RoleBinding is, must not keep the others from being led. Raises ApiError.
    """
    lists: _Rights = tuple((group, resource, ("list",)) for group, resource, verbs in _IN_NAMESPACES if "list" in verbs)
    return tuple([each for each in namespaces if not await _refused(client, each, lists)]) or namespaces


async def _refused(client: Client, namespace: str, rights: _Rights) -> tuple[str, str, str] | None:
    """The group, resource and verb of the first right that the account lacks; None if it has all."""
    asked = [(group, resource, verb) for group, resource, verbs in rights for verb in verbs]
    answers = await asyncio.gather(*(_may(client, namespace, *right) for right in asked))
    return next((right for right, allowed in zip(asked, answers, strict=True) if not allowed), None)


async def _may(client: Client, namespace: str, group: str, resource: str, verb: str) -> bool:
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": subresource}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes | ({"namespace": namespace} if namespace else {})},
    }
    answer = await client.raw("POST", _REVIEWS, body=body)
    with readable("a review of rights"):
        return msgspec.json.decode(answer, type=_RightReview).status.allowed
