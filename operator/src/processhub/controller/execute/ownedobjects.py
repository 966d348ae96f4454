"""Keeps the objects that a Hub owns as they should be.

It takes over those of an earlier Hub of its name, and no others (docs/protocol.md, rule 14).

An object is applied when its manifest has changed, when the watch shows a change after the last apply, and every five
minutes. A round awaits the answers for a moment only, for an admission webhook may hold them (pendingrequests.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from processhub.api.hub import Hub
from processhub.api.meta import ObjectMeta
from processhub.api.naming import LABEL_HUB_UID
from processhub.api.reasons import EventReason
from processhub.cluster.errors import ApiError, ConflictError, NamespaceTerminatingError, NotFoundError
from processhub.cluster.kinds import untyped
from processhub.cluster.tokenbucket import TokenBucket
from processhub.controller.errors import BeingDeletedError, NameConflictError
from processhub.controller.execute.earlierhubs import WORKLOADS, check_absent, delete, earlier_uid, take_over
from processhub.controller.objects.access import access
from processhub.controller.objects.authorities import authorities_map
from processhub.controller.objects.disruption import disruption_budget
from processhub.controller.objects.network import network_policy, services
from processhub.controller.rounds.pendingrequests import UnansweredError
from processhub.controller.rounds.round import Round
from processhub.controller.settings import OperatorSettings
from processhub.controller.store.ownedwatch import ABSENT, OWNED_KINDS, Mark, mark_of

MANAGER = "processhub-operator"
_REAPPLY_SECONDS = 300.0  # Until an object is applied again without any change of it.
_REPAIR_BURST = 10.0  # So many times an object is put back at once.
_REPAIR_SECONDS = 30.0  # Between two repairs, if somebody keeps changing the object.
_CONFLICT_SECONDS = 0.2  # Until an object is checked again that changed while it was applied.
_TAKEN_SECONDS = 1.0  # Until it is checked again whether a name is free.
_UNSEEN_SECONDS = 30.0  # Until it is checked again whether an object exists that nothing is known of yet.
_BACKOFF_MAX = 30.0  # Between two tries of an object that the API server refuses, at most; from a second on.
_UNKNOWN = "somebody"
Manifest = dict[str, Any]
log = logging.getLogger(__name__)


Refused = ApiError | NameConflictError


def supporting_objects(
    hub: Hub, settings: OperatorSettings, former_accounts: Iterable[str] = (), authorities: str = ""
) -> list[Manifest]:
    """All owned objects but the workload, in the order of their creation. The workload comes last.

    ``authorities``: the certificates by which the hub's members are verified, "" without TLS.
    """
    network = settings.member_network
    policies = [] if network is None else [network_policy(hub, network)]
    trust = [authorities_map(hub, authorities)] if authorities else []
    return [*access(hub, former_accounts), *services(hub), disruption_budget(hub), *policies, *trust]


def fingerprint(manifest: Manifest) -> str:
    """A digest that is equal for equal manifests."""
    return hashlib.sha256(msgspec.json.encode(manifest, order="sorted")).hexdigest()


class _Kept:
    """The memory of one object between its applies. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.digest = ""  # Of the manifest as it was applied or refused.
        self.mark: Mark | None = None  # Of the object after that.
        self.due = 0.0  # When it is applied again without any change.
        self.refusal: Refused | None = None
        self.refused = 0  # Number of refusals in a row.
        self.repairs = TokenBucket(1 / _REPAIR_SECONDS, _REPAIR_BURST)
        self.changed_by = ""  # The field manager that last changed it.
        self.contested = False  # Whether an Event said that it is changed too often.

    def applied(self, digest: str, mark: Mark, now: float) -> None:
        """Note that the object is as it should be."""
        self.digest, self.mark, self.due = digest, mark, now + _REAPPLY_SECONDS
        self.refusal, self.refused = None, 0

    def refuse(self, digest: str, mark: Mark | None, refusal: Refused, now: float) -> None:
        """Note that the object was refused. It is retried when it changes, or after some time."""
        self.refused += 1
        wait = min(_BACKOFF_MAX, 2.0 ** min(self.refused - 1, 10)) if isinstance(refusal, ApiError) else _TAKEN_SECONDS
        self.digest, self.mark, self.due, self.refusal = digest, mark, now + wait, refusal


class OwnedMemory:
    """The memory of the owned objects of one hub, from one round to the next."""

    def __init__(self) -> None:
        self.objects: dict[str, _Kept] = {}  # By kind and name.
        self.manifests: Sequence[Manifest] = ()  # The manifests of the latest round.


class OwnedObjects:
    """Keeps the owned objects of one hub in one round. An Event is posted for each that is put back."""

    def __init__(self, round: Round, memory: OwnedMemory) -> None:
        self._round, self._memory = round, memory
        self._client, self._watch, self._hub = round.client, round.store.owned, round.hub

    async def keep(self, manifests: Sequence[Manifest]) -> dict[str, Refused]:
        """Apply the manifests that need it; returns the refusals by kind and name.

        A refused manifest stops no other, but a name that belongs to another owner does: the hub creates nothing more
        then. A refusal is returned in each round until the next try. Raises NamespaceTerminatingError.
        """
        self._memory.manifests = manifests
        objects, now = self._memory.objects, self._round.now()
        for title in objects.keys() - {_title(manifest) for manifest in manifests}:
            del objects[title]
            self._round.steps.unanswered.drop(title)
        refusals: dict[str, Refused] = {}
        for manifest in manifests:
            if manifest["kind"] in WORKLOADS and self._awaits_first_answer():
                continue  # Its pods need the other objects.
            title = _title(manifest)
            kept = objects.setdefault(title, _Kept())
            await self._keep(manifest, kept, now)
            if title not in self._round.steps.unanswered:
                self._round.again_in(max(0.05, kept.due - now))
            if kept.refusal is not None:
                refusals[title] = kept.refusal
                if not isinstance(kept.refusal, ApiError | BeingDeletedError):
                    break
        return refusals

    def left_over(self, kind: str, name: str) -> str:
        """The uid of an object of the hub that is not wanted any more; empty if there is none.

        If it is not known yet, another round is asked for.
        """
        hub = self._hub.metadata
        if self._watch.look(kind, hub.namespace, name) is None:
            self._round.again_in(_UNSEEN_SECONDS)
        return self._watch.uid_of_owned(kind, hub.namespace, name, hub.uid)

    async def remove(self, kind: str, name: str, uid: str) -> None:
        """Delete the object with this uid. Raises ApiError."""
        with contextlib.suppress(NotFoundError, ConflictError):  # It is gone, or another one has its name.
            await self._client.delete(OWNED_KINDS[kind], self._hub.metadata.namespace, name, uid=uid)

    async def check(self, manifest: Manifest) -> None:
        """Check the manifest by a dry run. Raises ApiError.

        An object of another owner is not checked. The conflict is reported when the manifest is applied.
        """
        namespace, name = self._hub.metadata.namespace, manifest["metadata"]["name"]
        kind = OWNED_KINDS[manifest["kind"]]
        try:
            present = await self._client.get(untyped(kind.api_version, kind.plural), namespace, name)
            _check_owner(self._hub, manifest["kind"], present)
        except NotFoundError:
            log.debug("%s is not there yet", _title(manifest))
        except NameConflictError as error:
            log.info("%s is not checked: %s", _title(manifest), error)
            return
        await self._client.apply(kind, namespace, name, manifest, manager=MANAGER, dry_run=True)

    def _awaits_first_answer(self) -> bool:
        unanswered = self._round.steps.unanswered
        return any(title in unanswered and not kept.digest for title, kept in self._memory.objects.items())

    async def _keep(self, manifest: Manifest, kept: _Kept, now: float) -> None:
        steps, title = self._round.steps, _title(manifest)
        with contextlib.suppress(UnansweredError):
            await steps.answer(title)  # about what the manifest was in an earlier round
            digest, seen = fingerprint(manifest), self._look(manifest)
            foreign = kept.digest != "" and seen is not None and seen != kept.mark
            repairs = foreign and kept.repairs.take(now)
            if digest != kept.digest or repairs or now >= kept.due:
                await steps.answer(title, lambda: self._put(manifest, kept, digest, foreign=foreign))
            elif foreign:
                self._slow_down(manifest, kept, now)

    async def _put(self, manifest: Manifest, kept: _Kept, digest: str, *, foreign: bool) -> None:
        clock = self._round.now
        try:
            await self._apply(manifest, kept, digest, foreign=foreign)
        except ConflictError as error:
            log.info("%s changed while it was applied; again: %s", _title(manifest), error.message)
            kept.due = clock() + _CONFLICT_SECONDS
        except NamespaceTerminatingError:
            raise
        except (ApiError, NameConflictError) as error:
            kept.refuse(digest, self._look(manifest), error, clock())

    async def _apply(self, manifest: Manifest, kept: _Kept, digest: str, *, foreign: bool) -> None:
        """Apply one manifest to the object as it was read. If the object has changed since, the API server refuses."""
        title, namespace, name = _title(manifest), self._hub.metadata.namespace, manifest["metadata"]["name"]
        kind = OWNED_KINDS[manifest["kind"]]
        body, before = manifest, ABSENT
        try:
            present = await self._client.get(untyped(kind.api_version, kind.plural), namespace, name)
        except NotFoundError:
            said = f"{title} was deleted; it is made again"
        else:
            metadata = msgspec.convert(present["metadata"], ObjectMeta)
            if metadata.deletion_timestamp is None and (uid := earlier_uid(self._hub, metadata)):
                await self._of_earlier_hub(manifest["kind"], metadata, uid)
                kept.due = self._round.now() + _CONFLICT_SECONDS
                return
            _check_owner(self._hub, manifest["kind"], present)
            before = mark_of(metadata)
            version = {"resourceVersion": present["metadata"]["resourceVersion"]}
            body = {**manifest, "metadata": {**manifest["metadata"], **version}}
            kept.changed_by = _last_manager(present)
            said = f"{title} was changed by {kept.changed_by}; it is put back"
        answer = await self._client.apply(kind, namespace, name, body, manager=MANAGER)
        self._watch.take(manifest["kind"], answer)
        after = mark_of(answer.metadata)
        if foreign and before != after:
            self._emit(said)
        kept.applied(digest, after, self._round.now())

    async def _of_earlier_hub(self, kind: str, metadata: ObjectMeta, uid: str) -> None:
        """Take over an object of an earlier Hub of this name. A workload is deleted, with the Pods that it made.

        Raises ApiError, and NameConflictError if that Hub is not absent.
        """
        await check_absent(self._round, uid)
        if kind in WORKLOADS:
            await delete(self._round, WORKLOADS[kind], metadata)
        else:
            await take_over(self._round, OWNED_KINDS[kind], metadata)

    def _slow_down(self, manifest: Manifest, kept: _Kept, now: float) -> None:
        """Put the object back less often, as somebody changes it again each time, and post that once."""
        kept.due = min(kept.due, now + kept.repairs.wait(now))
        if not kept.contested:
            kept.contested = True
            self._emit(
                f"{_title(manifest)} is changed or deleted again and again, the last change was by "
                f"{kept.changed_by or _UNKNOWN}; from now on it is put back every {_REPAIR_SECONDS:g} s"
            )

    def _emit(self, text: str) -> None:
        self._round.events.about_hub(self._hub, EventReason.OBJECT_PUT_BACK, text, warning=True)

    def _look(self, manifest: Manifest) -> Mark | None:
        return self._watch.look(manifest["kind"], self._hub.metadata.namespace, manifest["metadata"]["name"])


def _title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def _last_manager(present: Manifest) -> str:
    """The last field manager of the object but this operator. Writes of status do not count."""
    others = [
        (str(entry.get("time", "")), str(entry.get("manager", "")))
        for entry in present["metadata"].get("managedFields") or []
        if entry.get("subresource") != "status" and entry.get("manager") != MANAGER
    ]
    return max(others)[1] if others else _UNKNOWN


def _check_owner(hub: Hub, kind: str, present: Manifest) -> None:
    metadata = present["metadata"]
    owners = metadata.get("ownerReferences") or []
    ours = any(owner["uid"] == hub.metadata.uid for owner in owners)
    if metadata.get("deletionTimestamp"):
        message = f"{kind} {metadata['name']} is still being deleted; made again when it is gone"
        raise BeingDeletedError(message) if ours else NameConflictError(message)
    controlled = any(owner.get("controller") for owner in owners)
    if ours or (not controlled and (metadata.get("labels") or {}).get(LABEL_HUB_UID) == hub.metadata.uid):
        return  # If somebody removed the reference, the label still names the owner.
    raise NameConflictError(
        f"{kind} {metadata['name']} exists and is not this hub's; delete or rename it, or give the hub another name"
    )
