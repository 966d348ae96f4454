"""The StatefulSet or DaemonSet of the members, with the other owned objects: applied by the last good template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import (
    ANNOTATION_FORCE_SCALE_DOWN,
    ANNOTATION_TEMPLATE,
    LABEL_HUB_UID,
    member_account,
    member_ordinal,
)
from processhub.api.reasons import Reason
from processhub.api.switches import is_on
from processhub.cluster.errors import NotFoundError
from processhub.cluster.kinds import untyped
from processhub.controller.errors import NameConflictError
from processhub.controller.execute.memory import CheckedTemplate, ExecuteMemory
from processhub.controller.execute.ownedobjects import OwnedObjects, Refused, fingerprint, supporting_objects
from processhub.controller.objects.access import accounts
from processhub.controller.objects.network import network_policy_name
from processhub.controller.objects.template import pod_template
from processhub.controller.objects.workload import workload
from processhub.controller.observe.observation import Observation
from processhub.controller.rounds.round import Round
from processhub.controller.rounds.steps import Steps
from processhub.controller.settings import OperatorSettings
from processhub.core.acceptance import Refusal, invalid
from processhub.core.model.membership import Phase
from processhub.core.model.plan import Plan

_BINDINGS = untyped("rbac.authorization.k8s.io/v1", "rolebindings")
_TEMPLATE = "members can't be made as spec.members says"


async def keep_members(
    round: Round, settings: OperatorSettings, memory: ExecuteMemory, replicas: int, authorities: str = ""
) -> Refusal | None:
    """Apply the owned objects where they differ; returns why they can't follow spec.members, or None.

    ``authorities``: the certificates by which members are verified, "" without TLS.
    """
    memory.former_accounts = await _former_accounts(round, memory.former_accounts)
    owned = OwnedObjects(round, memory.owned)
    manifests = supporting_objects(round.hub, settings, memory.former_accounts, authorities)
    template = await _template(round, settings, memory.template, owned, replicas)
    if template is not None:
        manifests.append(workload(round.hub, template, replicas))
    refused = await owned.keep(manifests)
    _note_refused(round.steps, refused)
    if settings.member_network is None:
        await _remove_policy(round, owned)
    conflict = next((error for error in refused.values() if isinstance(error, NameConflictError)), None)
    if conflict is not None:
        return Refusal(Reason.NAME_CONFLICT, str(conflict))
    failure = round.steps.failure(_TEMPLATE)
    return invalid(failure.sentence) if failure and failure.reason == Reason.INVALID else None


async def keep_last_members(round: Round, memory: ExecuteMemory) -> None:
    """Keep the owned objects as they were last applied, while the Hub is not accepted."""
    _note_refused(round.steps, await OwnedObjects(round, memory.owned).keep(memory.owned.manifests))


async def _former_accounts(round: Round, before: frozenset[str]) -> frozenset[str]:
    """The accounts that the spec named before and that members' pods still use, as while they are rolled.

    They are bound already. A Pod that somebody labelled as a member's gets its account no rights.
    """
    hub = round.hub
    used = {
        pod.spec.service_account_name
        for pod in round.state.pods.values()
        if pod.metadata.labels.get(LABEL_HUB_UID) == hub.metadata.uid
    }
    used -= {"", *accounts(hub)}
    if not used:
        return frozenset()
    name = member_account(hub.metadata.name)

    async def bound() -> frozenset[str]:
        try:
            binding = await round.client.get(_BINDINGS, hub.metadata.namespace, name)
        except NotFoundError:
            return frozenset()
        return frozenset(used & {subject["name"] for subject in binding.get("subjects") or ()})

    return await round.steps.attempt(f"RoleBinding {name} can't be read", bound, before & used)


async def _remove_policy(round: Round, owned: OwnedObjects) -> None:
    """Delete the NetworkPolicy of the members, which is there if the chart's networkPolicy was enabled before."""
    name = network_policy_name(round.hub)
    if uid := owned.left_over("NetworkPolicy", name):
        step = f"NetworkPolicy {name} can't be deleted"
        await round.steps.take(step, lambda: owned.remove("NetworkPolicy", name, uid))


async def _template(
    round: Round, settings: OperatorSettings, checked: CheckedTemplate, owned: OwnedObjects, replicas: int
) -> dict[str, Any] | None:
    """The members' pod template: the last one that passed a dry run, which is made once a generation of the Hub.

    None if none has passed since this leader began. The existing members keep running.
    """
    hub = round.hub

    async def check() -> None:
        template = pod_template(hub, settings)
        digest = fingerprint(template)[:16]
        metadata = template["metadata"]
        metadata["annotations"] = {**(metadata.get("annotations") or {}), ANNOTATION_TEMPLATE: digest}
        if template != checked.last_good:
            await owned.check(workload(hub, template, replicas))
            round.again_in(0.0)  # In the mode PerNode the template decides which nodes have a member.
        checked.last_good, checked.digest, checked.generation = template, digest, hub.metadata.generation

    if checked.generation != hub.metadata.generation:
        await round.steps.take(_TEMPLATE, lambda: round.steps.answer(_TEMPLATE, check))
    return checked.last_good


def replicas_of(hub: Hub, observation: Observation, plan: Plan) -> int:
    """The size of the StatefulSet: the number in the spec, and members above it that are not empty yet.

    A member that is gone has nothing to hand over. It is made again for a pinned child, which waits for it.
    """
    forced = is_on(hub.metadata.annotations, ANNOTATION_FORCE_SCALE_DOWN)
    replicas = hub.spec.members.replicas
    for member in observation.members.values():
        ordinal = member_ordinal(hub.metadata.name, member.name)
        gone = member.phase is Phase.GONE and member.name not in plan.stranded
        if ordinal is None or member.wanted or gone:
            continue
        view = next(view for view in observation.snapshot.members if view.name == member.name)
        # Entries that this round removed are unproven. The view was made before, and does not have them.
        occupied = any(known.assignments or known.unproven for known in member.slices) or view.possibly_running
        if occupied and not (forced and member.name in plan.stranded):
            replicas = max(replicas, ordinal + 1)
    return replicas


def _note_refused(steps: Steps, refused: Mapping[str, Refused]) -> None:
    """Note the objects that the API server refused as failed steps."""
    for title, error in refused.items():
        steps.note(f"{title} can't be made as it is to be", error)
