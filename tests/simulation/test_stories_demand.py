"""Faults of children that requests start, each as the shortest run that shows it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from memoryapi import Json
from memoryrequests import Key

from .stories import Story, hub, tell
from .world import HUB

pytestmark = pytest.mark.no_cover
CHILD = Key("children", "ns", "c0")


def demand(**template: Any) -> Json:
    """The spec of a hub whose members start children on demand."""
    return hub(onDemand={"exec": {"command": ["x"]}, **template})


def test_a_child_that_is_started_again_where_it_has_just_ended_is_put_on_record() -> None:
    """It ended by ttlSeconds, and a request that waited for it started it again before its end was reported.

    The operator waited for a report of the end, which never came, and put the child on record never again.
    """

    async def story(told: Story) -> None:
        await told.until(told.view_is_open)
        await told.answered("d")
        await told.until(lambda: told.entry("d"))
        first = told.run("d")
        assert first is not None
        await told.until(lambda: first.ending)

        await told.answered("d")

        second = told.run("d")
        assert second is not first
        await told.until(lambda: told.entry("d"))
        await told.until(lambda: not told.entry("d"))

    tell(demand(ttlSeconds=2), 0, story)


def test_a_drained_member_sends_requests_for_new_ids_to_the_members_with_the_view() -> None:
    async def story(told: Story) -> None:
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        await told.until(lambda: told.order("hub-0").get("members") == [{"name": "hub-0", "weight": 1}])

        await told.answered("d", "hub-1")

        assert not [key for key in told.world.server.objects if key.plural == "children"]

    tell(demand(), 0, story)
