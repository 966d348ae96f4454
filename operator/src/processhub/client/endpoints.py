"""The endpoints at which a hub's members can be reached from this process.

In a child or a member this is $HUB_URL, in another pod of the cluster the hub's Service. Outside the cluster, as in a
pod of another one, it is a port-forward through the API server, or a member's own address where that is one of this
machine (the local cluster).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from processhub.api.addresses import authority
from processhub.api.hub import MemberStatus
from processhub.client.portforward import PortForward
from processhub.client.session import Session
from processhub.cluster.errors import ApiError, reason_of
from processhub.cluster.tasks import cancel_all

_SERVICE_PORT = 8080
_CONNECT_SECONDS = 1.0
_API_SERVICE = "kubernetes.default."  # the name of the API server in each cluster


class MemberEndpoints:
    """The endpoints that one client tries. The one that last worked comes first."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last = ""
        self._names: dict[str, str] = {}  # by base URL: the member there, in words
        self._forwards: dict[str, PortForward] = {}  # by base URL
        self._opening: dict[str, asyncio.Task[tuple[str, str]]] = {}  # by pod
        self._retired: list[PortForward] = []  # on which members may still answer requests
        self.troubles: list[str] = []  # why members could not be reached in the last pass

    async def bases(self) -> AsyncIterator[str]:
        """Yield the base URLs to try in turn."""
        self.troubles = []
        given = os.environ.get("HUB_URL")
        mine = os.environ.get("HUB_NAME") == self._session.name
        if given and mine and os.environ.get("HUB_NAMESPACE") == self._session.namespace:
            yield given
        here = _is_here(self._session)
        if here:
            yield f"http://{self._session.name}.{self._session.namespace}.svc:{_SERVICE_PORT}"
        listed = [member for member in self._session.living_hub().status.members if member.pod_ip]
        # The address of a member that was replaced may be another pod's now, which must not get this client's token.
        if self._last in self._forwards or self._last in map(_base, listed):
            yield self._last
        members = [member for member in listed if member.ready]
        for member in random.sample(members, len(members)):
            base = _base(member)
            self._names[base] = f"member {member.name} at {authority(member.pod_ip, member.port)}"
            in_reach = here or _is_of_this_machine(member.pod_ip)
            if base != self._last and in_reach and await _answers(member.pod_ip, member.port):
                yield base
        for member in members:
            if base := await self._forwarded_to(member):
                yield base

    async def _forwarded_to(self, member: MemberStatus) -> str:
        """The base URL of a port-forward to the member's pod: of one that there is, else of a new one; "" if it fails.

        Requests at the same time share it, and so do those after one that got no answer.
        """
        known = (base for base, forward in self._forwards.items() if forward.pod == member.pod)
        if base := next(known, ""):
            return base
        opening = self._opening.get(member.pod)
        if opening is None:
            opening = self._opening[member.pod] = asyncio.create_task(self._forward_to(member))
            opening.add_done_callback(lambda _: self._opening.pop(member.pod, None))
        base, trouble = await asyncio.shield(opening)
        self.troubles += [trouble] if trouble else []
        return base

    async def _forward_to(self, member: MemberStatus) -> tuple[str, str]:
        """Open a port-forward; returns its base URL, or "" and why it could not be opened."""
        forward = PortForward(self._session.client, self._session.namespace, member.pod, member.port)
        try:
            base = await forward.open()
        except (ApiError, TimeoutError, TypeError) as error:
            await forward.close()
            return "", f"member {member.name} by a port-forward to its pod: {reason_of(error)}"
        self._forwards[base] = forward
        self._names[base] = f"member {member.name} by a port-forward to pod {member.pod}"
        return base, ""

    def named(self, base: str) -> str:
        """What is at the base URL, in words."""
        return self._names.get(base, base)

    def worked(self, base: str) -> None:
        """Record that a member answered at the base URL."""
        self._last = base

    def failed(self, base: str) -> None:
        """Discard the base URL, because no member accepts requests there.

        A member that shuts down still answers those that it has.
        """
        if self._last == base:
            self._last = ""
        if (forward := self._forwards.pop(base, None)) is not None:
            forward.retire()
            self._retired = [*(each for each in self._retired if each.busy), forward]

    async def close(self) -> None:
        """Close the port-forwards that were opened."""
        await cancel_all(self._opening.values())
        for forward in (*self._forwards.values(), *self._retired):
            await forward.close()
        self._forwards.clear()
        self._retired.clear()


def _base(member: MemberStatus) -> str:
    return f"http://{authority(member.pod_ip, member.port)}"


async def _answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), _CONNECT_SECONDS)
        writer.close()
        return True
    return False


def _is_here(session: Session) -> bool:
    """Whether this process is in a pod of the hub's cluster, and not of another one, as pods of CI are.

    Elsewhere another Service may have the name, and another host a pod's address, which must not get this client's
    token.
    """
    own, server = os.environ.get("KUBERNETES_SERVICE_HOST"), urlsplit(session.client.config.host)
    if not own:
        return False
    named = (server.hostname, str(server.port or 443)) == (own, os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
    return named or f"{server.hostname}.".startswith(_API_SERVICE)


def _is_of_this_machine(address: str) -> bool:
    """Whether this machine has the address, as on the local cluster."""
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe,
    ):
        probe.bind((address, 0))
        return True
    return False
