"""Ids that no slice names: children that have no member yet, and children that a first request starts."""

from __future__ import annotations

import asyncio
import re

from processhub.agent.env import Environment
from processhub.agent.problems import Problem
from processhub.agent.registry import lookup
from processhub.agent.registry.slicewatcher import SliceWatcher
from processhub.agent.requests.activation import Activations, full
from processhub.agent.requests.asks import RequestedId
from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.naming import child_object_name, child_object_names
from processhub.cluster.client import Client
from processhub.cluster.decoding import Undecodable
from processhub.cluster.errors import ApiError, InvalidError, NotFoundError, UnavailableError
from processhub.cluster.kinds import CHILD_SETS, CHILDREN
from processhub.cluster.tokenbucket import TokenBucket

_LOOKED_SECONDS = 0.5  # how long a look-up of an id is remembered
_LOOKING_MAX, _AT_ONCE = 1000, 8  # ids that are looked up, and at once: callers may name any number of them
# Searches at once, and a second after that: in each the API server looks at all Children of the namespace.
_SEARCHES, _SEARCHES_PER_SECOND = 50, 20.0
_RETRY_AFTER = 1  # seconds
_READ_SECONDS, _WHY_SECONDS = 5.0, 2.0  # for one look-up, and for one that only says why a request failed


class UnplacedIds:
    """Decides what a request does whose id no slice names: it is rejected, waits, or asks the operator."""

    def __init__(self, env: Environment, client: Client, slices: SliceWatcher, activations: Activations) -> None:
        self._env, self._client, self._slices, self._activations = env, client, slices, activations
        self._count = activations.count
        self._found: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._reading = asyncio.Semaphore(_AT_ONCE)
        self._searches = TokenBucket(_SEARCHES_PER_SECOND, _SEARCHES)

    async def expect(self, child_id: str, ask: RequestedId) -> None:
        """Return if the request may wait for an owner, which it asks for where the hub needs that. Raises Problem."""
        if not self._slices.settings.on_demand:
            ask.withdraw()
            await self._look_up(child_id)
            return
        if self._slices.settings.suspended:
            ask.withdraw()
            said = f"child {child_id!r} is not started, because spec.suspend of hub {self._env.hub} is true"
            raise Problem(503, "no_owner", said)
        try:
            self._check_room(child_id)
        except Problem:
            ask.withdraw()
            raise
        if self._activations.asks_for(child_id):
            ask.make()
        else:
            ask.withdraw()

    async def why(self, child_id: str) -> str:
        """Why the id has no owner that runs, as a clause; "" if nothing is known.

        That is the first condition of its Child that is False. Children of a ChildSet and those on demand have none: of
        these the record tells first.
        """
        unread, found = False, None
        try:
            async with asyncio.timeout(_WHY_SECONDS):
                found = await self._read(child_id)
        except (Problem, TimeoutError):
            unread = True
        false = [condition for condition in found.status.conditions if condition.status == "False"] if found else []
        said = f"{false[0].reason}, {false[0].message}" if false else ""
        if isinstance(found, Child):
            return said
        if recorded := lookup.why_not_running(self._slices.registry(), child_id):
            return recorded
        if found is None and not unread and self._slices.settings.on_demand:
            return self._activations.why(child_id)
        return said

    # Children on demand.

    def _check_room(self, child_id: str) -> None:
        """Raise Problem if there is no room for one more child."""
        self._activations.check_room(child_id)
        limit = self._slices.settings.on_demand_max
        if limit and self._count.is_full(limit):
            raise full(child_id, f"hub {self._env.hub} has all {limit}")

    # Children with an object.

    async def _look_up(self, child_id: str) -> None:
        """Return if an object of the hub has this id. Raises Problem: 404 if none has."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._found.get(child_id, float("-inf")) < _LOOKED_SECONDS:
            return
        looking = self._looking.get(child_id)
        if looking is None:
            if len(self._looking) >= _LOOKING_MAX:
                what = f"{_LOOKING_MAX} ids that are not on record are being looked up already; try again later"
                raise Problem(429, "busy", what, _RETRY_AFTER)
            # One look-up serves all requests for the id at the same time.
            looking = self._looking[child_id] = loop.create_task(self._find(child_id))
            looking.add_done_callback(lambda _: self._looking.pop(child_id, None))
        await asyncio.shield(looking)

    async def _find(self, child_id: str) -> None:
        if await self._read(child_id) is None:
            named = await self._named(child_id)
            raise Problem(404, "not_found", f"hub {self._env.hub} has no child {child_id!r}{named and '; '}{named}")
        now = asyncio.get_running_loop().time()
        for known in [known for known, at in self._found.items() if at < now - _LOOKED_SECONDS]:
            del self._found[known]
        self._found[child_id] = now

    async def _read(self, child_id: str) -> Child | ChildSet | None:
        """The Child of this hub that has the id, else the ChildSet that has it. Raises Problem."""
        why = "the API server does not answer"
        try:
            async with self._reading, asyncio.timeout(_READ_SECONDS):
                while True:
                    try:
                        return await self._get(child_id) or await self._search(child_id)
                    except UnavailableError as error:  # it is busy, or has just begun to serve the CRDs
                        why = error.message
                        await asyncio.sleep(error.retry_after or _RETRY_AFTER)
        except ApiError as error:
            why = error.message
        except TimeoutError:
            pass
        raise Problem(503, "not_ready", f"child {child_id!r} can't be looked up: {why}")

    async def _named(self, child_id: str) -> str:
        """What the Child is whose name was given for an id, as a clause; "" if there is none, or it can't be read."""
        if child_object_name(child_id) != child_id:
            return ""
        try:
            async with self._reading, asyncio.timeout(_WHY_SECONDS):
                return (await self._client.get(CHILDREN, self._env.namespace, child_id)).known_as(self._env.hub)
        except (ApiError, TimeoutError):
            return ""

    async def _get(self, child_id: str) -> Child | None:
        """The Child, if its name is one that the product gives."""
        for name in child_object_names(self._env.hub, child_id):
            try:
                child = await self._client.get(CHILDREN, self._env.namespace, name)
            except NotFoundError:
                continue
            if (child.spec.hub, child.id) == (self._env.hub, child_id):
                return child
        return None

    async def _search(self, child_id: str) -> Child | ChildSet | None:
        """The Child, whatever its name, else the ChildSet."""
        clock = asyncio.get_running_loop().time
        while not self._searches.take(clock()):
            seconds = self._searches.wait(clock())
            await asyncio.sleep(seconds)
        return await self._find_child(child_id) or await self._find_set(child_id)

    async def _find_child(self, child_id: str) -> Child | None:
        escaped = re.sub(r"([\\,=])", r"\\\1", child_id)
        fields = f"spec.hub={self._env.hub},spec.id={escaped}"
        try:
            children, _ = await self._client.list(CHILDREN, self._env.namespace, fields=fields)
        except InvalidError:
            return None  # in the CRD of an earlier version spec.id is not selectable
        return next((item for item in children if not isinstance(item, Undecodable)), None)

    async def _find_set(self, child_id: str) -> ChildSet | None:
        sets, _ = await self._client.list(CHILD_SETS, self._env.namespace, fields=f"spec.hub={self._env.hub}")
        return next((item for item in sets if not isinstance(item, Undecodable) and item.has(child_id)), None)
