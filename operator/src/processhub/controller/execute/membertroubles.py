"""Why members are not ready, in the words of the cluster: the status of the Pod, Events, and the rights of the account.

What keeps a Pod from being made (a quota, a policy), a volume from being mounted and a probe from succeeding stands in
Events only. They are read for members that have not been ready for some seconds, then less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from processhub.api.kubernetes import Pod
from processhub.api.naming import member_account
from processhub.cluster.errors import ApiError, ForbiddenError
from processhub.cluster.kinds import untyped
from processhub.cluster.timestamps import utc_now
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round
from processhub.core.model.podtrouble import REPORT_REFUSED, Trouble, cause, trouble_of

_LOOKED_AT = 5  # Members of a hub whose Events are read. The others mostly have the same cause.
_PATIENCE_SECONDS = 2.0  # A member that is not ready for a shorter time just starts.
_FIRST_SECONDS, _LONGEST_SECONDS = 5.0, 60.0  # Between two looks at the same Events; doubled each time.
_SLOW_SECONDS = 1.0  # For all looks of one round.
_CRASHING = timedelta(minutes=10)  # After so long without a crash the kubelet's back-off starts again.
_COMBINED = "(combined from similar events): "
_EVENTS = untyped("v1", "events")
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
# What a member can't do without: verb, API group, resource, subresource.
_NEEDED = (
    ("list", "processhub.dev", "registryslices", ""),
    ("update", "processhub.dev", "registryslices", "status"),
    ("update", "coordination.k8s.io", "leases", ""),
)
log = logging.getLogger(__name__)


class _Look(msgspec.Struct):
    """The looks at what concerns one member. Times are monotonic seconds."""

    uid: str  # Of the Pod, "" if there is none.
    due: float
    pause: float = _FIRST_SECONDS
    found: Trouble = Trouble()


Looks = dict[str, _Look]  # By member. Kept between the rounds of a hub.


async def member_troubles(round: Round, looks: Looks, members: Mapping[str, Member]) -> dict[str, Trouble]:
    """The members that are wanted and not ready, each with its cause as far as it is known.

    Members whose reports the API server refuses are among them, and are noted as failures of the round.
    """
    unready = [member for member in members.values() if member.wanted and not member.ready]
    for name in looks.keys() - {member.name for member in unready}:
        del looks[name]
    recent = (utc_now() - _CRASHING).isoformat()
    troubles = {member.name: trouble_of(member.pod, recent) if member.pod else Trouble() for member in unready}
    unexplained = [member for member in unready if not troubles[member.name]]
    if not round.hub.spec.suspend:
        await _look(round, looks, unexplained[:_LOOKED_AT])
    found = {name: trouble or (looks[name].found if name in looks else trouble) for name, trouble in troubles.items()}
    for member in members.values():
        if why := member.refused:
            round.steps.note(f"what member {member.name} runs can't be reported", ForbiddenError(403, "Forbidden", why))
            found[member.name] = cause(REPORT_REFUSED, f"its report is refused: {why}")
    return found


async def _look(round: Round, looks: Looks, members: Sequence[Member]) -> None:
    """Look for the causes that are due to be looked for. A slow API server must not delay the round: some are left."""
    now, due = round.now(), []
    for member in members:
        uid = member.pod.metadata.uid if member.pod else ""
        look = looks.get(member.name)
        if look is None or look.uid != uid:
            look = looks[member.name] = _Look(uid, now + _PATIENCE_SECONDS)
        if now >= look.due:
            look.due, look.pause = now + look.pause, min(2 * look.pause, _LONGEST_SECONDS)
            due.append(_find(round, member, look))
        round.again_in(max(0.05, look.due - now))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SLOW_SECONDS):
            await asyncio.gather(*due)


async def _find(round: Round, member: Member, look: _Look) -> None:
    """Look for the cause by Events and rights. If that fails, what was found before stands."""
    try:
        look.found = (
            await _trouble_of_pod(round, member, member.pod) if member.pod else await _unmade(round, member.name)
        )
    except ApiError as error:  # For example an operator that is newer than its ClusterRole.
        log.info("hub %s/%s: no cause is found for %s: %s", *round.hub.metadata.key, member.name, error.message)


async def _unmade(round: Round, name: str) -> Trouble:
    """Why a member's Pod is not made: the latest refusal that its StatefulSet or DaemonSet met."""
    hub = round.hub
    kind = "DaemonSet" if hub.spec.members.mode == "PerNode" else "StatefulSet"
    events = await _warnings(round, f"involvedObject.kind={kind},involvedObject.name={hub.metadata.name}")
    uid = round.store.owned.uid(kind, *hub.metadata.key)
    found = [event for event in events if uid in ("", event["involvedObject"].get("uid"))]
    own = [event for event in found if f"Pod {name} " in _message(event)]
    return _latest(own or found, "it has no pod: ")


async def _trouble_of_pod(round: Round, member: Member, pod: Pod) -> Trouble:
    """Why a Pod is not Ready, of which its status does not say it."""
    found = _latest(await _warnings(round, f"involvedObject.uid={pod.metadata.uid}"))
    running = any(each.state.running for each in pod.status.container_statuses)
    if not found and not pod.spec.node_name:
        found = cause("Unschedulable", f"its pod has no node yet: no scheduler {pod.spec.scheduler_name!r} answers")
    if not running:
        return found
    return await _missing_right(round, pod) or _refused_lease(member) or found


async def _warnings(round: Round, fields: str) -> list[dict[str, Any]]:
    events, _ = await round.client.list(_EVENTS, round.hub.metadata.namespace, fields=f"type=Warning,{fields}")
    return [event for event in events if isinstance(event, dict)]


def _latest(events: list[dict[str, Any]], before: str = "") -> Trouble:
    if not events:
        return Trouble()
    event = max(events, key=_when)
    reason = str(event.get("reason", ""))
    return cause(reason or "Warning", f"{before}{reason}: {_message(event)}")


def _message(event: dict[str, Any]) -> str:
    return str(event.get("message", "")).removeprefix(_COMBINED).strip()


def _when(event: dict[str, Any]) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max(str(time)[:19] for time in (*times, event["metadata"].get("creationTimestamp")) if time)


def _refused_lease(member: Member) -> Trouble:
    """Why the API server does not store the member's Lease, as its agent says."""
    why = member.first.present.status.lease_refused if member.first is not None else ""
    return cause("LeaseRefused", f"its Lease can't be renewed: {why}") if why else Trouble()


async def _missing_right(round: Round, pod: Pod) -> Trouble:
    """The first right that the Pod's account lacks and that a member needs."""
    namespace = pod.metadata.namespace
    account = pod.spec.service_account_name or member_account(round.hub.metadata.name)
    for verb, group, resource, subresource in _NEEDED:
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": resource}
        spec = {
            "user": f"system:serviceaccount:{namespace}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
            "resourceAttributes": attributes | ({"subresource": subresource} if subresource else {}),
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = msgspec.json.decode(await round.client.raw("POST", _REVIEWS, body=review))
        if not answer["status"].get("allowed"):
            what = f"{resource}/{subresource}" if subresource else resource
            return cause("Forbidden", f"its account {account} may not {verb} {what} in namespace {namespace}")
    return Trouble()
