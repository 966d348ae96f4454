"""Ids that no slice names: children that have no member yet, and children that a first request starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.api.child import Child
from processhub.api.meta import API_VERSION
from processhub.api.naming import ANNOTATION_CHILD_ID, LABEL_CHILD, LABEL_HUB, LABEL_NAME, child_object_names, id_hash
from processhub.api.slice import RegistrySlice, Settings
from processhub.cluster.client import Client
from processhub.cluster.errors import AlreadyExistsError, ApiError, ForbiddenError, InvalidError, NotFoundError
from processhub.cluster.kinds import CHILDREN
from processhub.registry.grammar import is_on_demand

_LOOKED_SECONDS = 0.5  # how long a look-up or a creation of an id is remembered
_DECIDED_SECONDS = 60.0  # how long the operator may take to place a created child, or to delete it for want of a place
_RETRY_AFTER = 1


class OnDemandStarter:
    """Looks up children that no slice names, or creates them.

    ``settings()`` are the hub's settings. ``registry()`` is all its slices.
    """

    def __init__(
        self,
        env: Environment,
        client: Client,
        settings: Callable[[], Settings],
        registry: Callable[[], Iterable[RegistrySlice]],
    ) -> None:
        self._env, self._client, self._settings, self._registry = env, client, settings, registry
        self._ensured: dict[str, float] = {}
        self._created: dict[str, float] = {}  # by id: when this member created the child, or found that it exists
        self._ensuring: dict[str, asyncio.Task[None]] = {}

    async def ensure(self, child_id: str) -> None:
        """Return when the child exists, so that its owner can be waited for. Raises Problem."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._ensured.get(child_id, float("-inf")) < _LOOKED_SECONDS:
            return
        ensuring = self._ensuring.get(child_id)
        if ensuring is None:
            # One look-up serves all requests for the id at the same time.
            ensuring = self._ensuring[child_id] = loop.create_task(self._ensure(child_id))
            ensuring.add_done_callback(lambda _: self._ensuring.pop(child_id, None))
        await asyncio.shield(ensuring)

    async def why(self, child_id: str) -> str:
        """The first condition of the child that is False, as a clause; "" if none is known."""
        try:
            child = await self._read(child_id)
        except Problem:
            return ""
        if child is None:
            return ""
        false = [condition for condition in child.status.conditions if condition.status == "False"]
        return f"{false[0].reason}, {false[0].message}" if false else ""

    async def _ensure(self, child_id: str) -> None:
        if not self._settings().on_demand:
            if await self._read(child_id) is None:
                raise Problem(404, "not_found", f"hub {self._env.hub} has no child {child_id!r}")
        else:
            await self._start(child_id)
        now = asyncio.get_running_loop().time()
        _forget(self._ensured, now - _LOOKED_SECONDS)
        self._ensured[child_id] = now

    async def _start(self, child_id: str) -> None:
        """Create the child. It may exist already: another member or a user may have created it."""
        now = asyncio.get_running_loop().time()
        _forget(self._created, now - _DECIDED_SECONDS)
        if not self._has_room():
            await self._check_undecided(child_id)
            return
        self._created.setdefault(child_id, now)
        what = f"child {child_id!r} can't be started on demand"
        for name in self._names(child_id):
            try:
                await self._client.create(CHILDREN, self._env.namespace, self._manifest(name, child_id))
                return
            except AlreadyExistsError:
                # An object that has disappeared since may have been this child. Under the other name, it would exist
                # twice.
                there = await self._look(name)
                if there is None or self._is(there, child_id):
                    return
            except ForbiddenError as error:
                raise Problem(503, "no_owner", f"{what}: {error.message}") from error
            except InvalidError as error:
                raise Problem(400, "bad_request", f"{what}: {error.message}") from error
            except ApiError as error:
                raise Problem(503, "not_ready", f"{what}: {error.message}") from error
        taken = " and ".join(f"child/{name}" for name in self._names(child_id))
        raise Problem(503, "no_owner", f"{what}: {taken} exist and have another id or hub; delete or rename one")

    def _names(self, child_id: str) -> tuple[str, str]:
        return child_object_names(self._env.hub, child_id)

    def _manifest(self, name: str, child_id: str) -> dict[str, Any]:
        return {
            "apiVersion": API_VERSION,
            "kind": "Child",
            "metadata": {
                "name": name,
                "labels": {LABEL_NAME: "processhub", LABEL_HUB: self._env.hub, LABEL_CHILD: id_hash(child_id)},
                "annotations": {ANNOTATION_CHILD_ID: child_id},
            },
            "spec": {"hub": self._env.hub, "id": child_id, "onDemand": True, "origin": self._env.member},
        }

    def _has_room(self) -> bool:
        """Whether the operator has placed fewer on-demand children than onDemand.max allows."""
        limit = self._settings().on_demand_max
        if not limit:
            return True
        ids = {known for item in self._registry() for known, text in item.spec.entries.items() if is_on_demand(text)}
        return len(ids) < limit

    async def _check_undecided(self, child_id: str) -> None:
        """Raise Problem unless a child that this member created still exists: the operator has not decided on it yet.

        The operator deletes a child that it has no room for. Refused before that, the child might still be started.
        """
        if child_id in self._created and await self._read(child_id) is not None:
            return
        self._created.pop(child_id, None)
        raise Problem(
            429,
            "busy",
            f"child {child_id!r} does not exist, and the hub has its {self._settings().on_demand_max} on-demand"
            " children (spec.onDemand.max)",
            _RETRY_AFTER,
        )

    async def _read(self, child_id: str) -> Child | None:
        for name in self._names(child_id):
            if (child := await self._get(name, child_id)) is not None:
                return child
        return None

    async def _get(self, name: str, child_id: str) -> Child | None:
        """The Child of this name, if it belongs to this hub and has the id."""
        child = await self._look(name)
        return child if child is not None and self._is(child, child_id) else None

    def _is(self, child: Child, child_id: str) -> bool:
        return (child.spec.hub, child.id) == (self._env.hub, child_id)

    async def _look(self, name: str) -> Child | None:
        try:
            return await self._client.get(CHILDREN, self._env.namespace, name)
        except NotFoundError:
            return None
        except ApiError as error:
            raise Problem(503, "not_ready", f"child/{name} can't be looked up: {error.message}") from error


def _forget(times: dict[str, float], before: float) -> None:
    """Remove the ids whose time is before this one."""
    for child_id in [child_id for child_id, at in times.items() if at < before]:
        del times[child_id]
