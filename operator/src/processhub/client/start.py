"""Starts children: creates a Child object for each, and waits and rolls back if the caller requests it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Literal

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.meta import API_VERSION
from processhub.api.naming import ANNOTATION_CHILD_ID, ANNOTATION_START, child_object_names
from processhub.api.reasons import Reason
from processhub.client.errors import ChildError, ClientReason
from processhub.client.records import Processes
from processhub.client.removal import Removal
from processhub.client.resolve import find_children, list_sets, owner_among
from processhub.client.results import Result, Rollback
from processhub.client.session import Session
from processhub.client.waiting import Start
from processhub.client.writes import each, with_retries
from processhub.cluster.errors import (
    AlreadyExistsError,
    ApiError,
    ConnectionFailedError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
)
from processhub.cluster.kinds import CHILDREN

OnFailure = Literal["continue", "rollback"]

_ROLLBACK_SECONDS = 60.0


class StartCall:
    """One call of start_children, and what it has created, so that it can wait for it and roll it back."""

    def __init__(
        self, session: Session, specs: dict[str, ChildSpec], *, check_existing: bool, on_failure: OnFailure
    ) -> None:
        self._session, self._specs = session, specs
        self._check_existing, self._on_failure = check_existing, on_failure
        self._mark = uuid.uuid4().hex
        self._unconfirmed: set[str] = set()  # ids whose creation got no answer from the server
        self.created: dict[str, str] = {}  # uid by id
        self._uids: dict[str, str] = {}  # the uids of children that were created, or existed with the same spec
        self.result = Result(self.wait)

    async def create(self, deadline: float | None) -> None:
        """Create all Child objects, until ``deadline`` on the event loop's clock. Errors are added to the result."""
        clock = asyncio.get_running_loop().time
        taken = [child_id for child_id in self._specs if child_id in self._session.registry.records]
        live = await find_children(self._session, taken) if taken else {}
        sets = await list_sets(self._session) if live.keys() != set(taken) else []

        async def one(child_id: str) -> None:
            if deadline is not None and clock() >= deadline:
                self._fail(child_id, ClientReason.NOT_SENT, "the timeout passed before its turn came; start it again")
                return
            existing = live.get(child_id)
            # A child on record without an object is ending. Its successor may be created, and waits for that end.
            owner = owner_among(sets, self._session, child_id) if child_id in self._session.registry.records else None
            if owner is not None:
                self._fail(
                    child_id,
                    Reason.ALREADY_STARTED,
                    f"the id belongs to childset/{owner.metadata.name}; take another id",
                )
            elif existing is not None and existing.metadata.deletion_timestamp is None:
                self._exists(child_id, existing)
            elif self._check_existing and existing is None and self._session.on_demand(child_id):
                self._fail(
                    child_id,
                    Reason.ALREADY_STARTED,
                    "a request has started it; stop it first, take another id, or create a Child of this id "
                    "(check_existing=False, kubectl apply), which takes it over",
                )
            else:
                await self._create(child_id)

        await each(self._specs, one)

    async def wait(self, timeout: float) -> None:
        """Wait ``timeout`` seconds at most until each child runs or is known not to; roll back if requested."""
        await self.guarded(self._wait(asyncio.get_running_loop().time() + timeout))

    async def run(self, *, wait: bool, timeout: float) -> Result:
        """Create the children, wait for them if ``wait`` is true, and return the result."""
        deadline = asyncio.get_running_loop().time() + timeout if wait else None
        await self.guarded(self._run(deadline))
        return self.result

    async def guarded(self, work: Awaitable[None]) -> None:
        """Await ``work``. If it fails, is cancelled or leaves errors, roll back if ``on_failure`` says so."""
        try:
            await work
        except BaseException:
            if self._on_failure == "rollback":
                await self._roll_back_shielded()
            raise
        if self._must_roll_back():
            await self._roll_back_shielded()

    async def _roll_back_shielded(self) -> None:
        """Roll back. If the call is cancelled meanwhile, it ends only when the rollback is done."""
        undoing = asyncio.ensure_future(self.roll_back())
        try:
            await asyncio.shield(undoing)
        except asyncio.CancelledError:
            if not undoing.done():
                await asyncio.shield(undoing)
            raise

    async def roll_back(self) -> None:
        """Remove everything that this call created, and nothing else, and wait until it has ended."""
        unknown = await self._find_created()
        removal = Removal(self._session)
        await removal.delete({child_id: (self.result.objects[child_id], uid) for child_id, uid in self.created.items()})
        await removal.wait(asyncio.get_running_loop().time() + _ROLLBACK_SECONDS)
        before = self.result.rollback
        self.result.started.clear()
        self.result.rollback = Rollback(
            (*(before.removed if before else ()), *sorted(removal.gone)), {**unknown, **removal.errors}
        )
        self.created = {child_id: uid for child_id, uid in self.created.items() if child_id in removal.errors}
        self._uids.clear()

    def _must_roll_back(self) -> bool:
        return self._on_failure == "rollback" and bool(self.result.errors)

    async def _run(self, deadline: float | None) -> None:
        if self._must_roll_back():
            return
        await self.create(deadline)
        if deadline is not None and not self._must_roll_back():
            await self._wait(deadline)

    async def _wait(self, deadline: float) -> None:
        result = self.result
        start = Start(self._session, self._uids)
        await start.until(deadline)
        for child_id, processes in start.running.items():
            result.started[child_id] = processes
            result.errors.pop(child_id, None)  # the Timeout of an earlier wait
        for child_id, error in (start.failed | start.late()).items():
            self._fail(child_id, error.reason, error.message)

    async def _create(self, child_id: str) -> None:
        """Create the child, under its second name if another child has the first."""
        for name in child_object_names(self._session.name, child_id):
            self.result.objects[child_id] = name
            if await self._create_as(child_id, name):
                return
        taken = " and ".join(f"child/{name}" for name in child_object_names(self._session.name, child_id))
        text = f"{taken} exist and have another id or hub; create yours under another name with spec.id {child_id!r}"
        self._fail(child_id, Reason.NAME_CONFLICT, text)

    async def _create_as(self, child_id: str, name: str) -> bool:
        """Create the child under this name; False if another child has the name."""
        session, spec = self._session, self._specs[child_id]
        annotations = {ANNOTATION_CHILD_ID: child_id, ANNOTATION_START: self._mark}
        metadata = {"name": name, "annotations": annotations}
        body = {"apiVersion": API_VERSION, "kind": "Child", "metadata": metadata, "spec": spec}
        try:
            child = await with_retries(lambda: session.client.create(CHILDREN, session.namespace, body))
        except AlreadyExistsError:
            return await self._name_taken(child_id, name)
        except ConnectionFailedError as error:
            self._unconfirmed.add(child_id)
            self._fail(child_id, ClientReason.UNREACHABLE, f"{error.message}; whether it was created is not known")
        except InvalidError as error:
            self._fail(child_id, Reason.INVALID, error.message)
        except ForbiddenError as error:
            self._fail(child_id, ClientReason.FORBIDDEN, error.message)
        except NotFoundError:
            self._fail(child_id, ClientReason.NOT_FOUND, f"there is no namespace {session.namespace}")
        except ApiError as error:
            if error.status >= 500:
                self._unconfirmed.add(child_id)  # the object may have been created before the error
            self._fail(child_id, error.reason or ClientReason.UNREACHABLE, error.message)
        else:
            self._created(child_id, child)
        return True

    async def _name_taken(self, child_id: str, name: str) -> bool:
        """Handle a name that exists: created by this call (a request that was sent twice), or by another for this id.

        Returns False if another child has the name.
        """
        try:
            existing = await with_retries(lambda: self._session.client.get(CHILDREN, self._session.namespace, name))
        except ApiError as error:
            self._unconfirmed.add(child_id)
            self._fail(child_id, Reason.ALREADY_STARTED, f"child/{name} existed a moment ago: {error.message}")
            return True
        if existing.metadata.annotations.get(ANNOTATION_START) == self._mark:
            self._created(child_id, existing)
        elif existing.spec.hub != self._session.name or existing.id != child_id:
            return False
        else:
            self._exists(child_id, existing)
        return True

    def _exists(self, child_id: str, existing: Child) -> None:
        name, same = existing.metadata.name, _same(existing, self._specs[child_id])
        self.result.objects[child_id] = name
        if existing.metadata.deletion_timestamp is not None:
            self._fail(child_id, Reason.ALREADY_STARTED, f"child/{name} is being deleted; try again when it is gone")
        elif self._check_existing:
            self._fail(
                child_id, Reason.ALREADY_STARTED, f"child/{name} exists already; stop it first, or take another id"
            )
        elif not same:
            self._fail(child_id, Reason.ALREADY_STARTED, f"child/{name} exists with another spec; edit or stop that")
        else:
            self._uids[child_id] = existing.metadata.uid
            self.result.started[child_id] = Processes()

    def _created(self, child_id: str, child: Child) -> None:
        self.created[child_id] = self._uids[child_id] = child.metadata.uid
        self.result.started[child_id] = Processes()

    def _fail(self, child_id: str, reason: str, message: str) -> None:
        self.result.started.pop(child_id, None)
        self.result.errors[child_id] = ChildError(str(reason), message)

    async def _find_created(self) -> dict[str, ChildError]:
        """Add the unconfirmed ids that this call did create; returns, by id, why the others are not known."""
        unknown: dict[str, ChildError] = {}

        async def look(child_id: str) -> None:
            name = self.result.objects[child_id]  # of the object that this call has tried to create
            try:
                child = await with_retries(lambda: self._session.client.get(CHILDREN, self._session.namespace, name))
            except NotFoundError:
                return
            except ApiError as error:
                text = f"{error.message}; whether it was created is not known"
                unknown[child_id] = ChildError(error.reason or ClientReason.UNREACHABLE, text)
                return
            if child.metadata.annotations.get(ANNOTATION_START) == self._mark:
                self.created[child_id] = child.metadata.uid

        await each(tuple(self._unconfirmed), look)
        self._unconfirmed = set(unknown)
        return unknown


def _same(existing: Child, spec: ChildSpec) -> bool:
    """Whether both describe the same child. The origin and the id in the spec make no difference."""
    return msgspec.structs.replace(existing.spec, id="", origin="") == msgspec.structs.replace(spec, id="", origin="")
