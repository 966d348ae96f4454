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


def test_a_drained_member_sends_requests_for_new_ids_to_the_members_with_the_view() -> None:
    async def story(told: Story) -> None:
        told.world.edit(HUB, {"metadata": {"annotations": {"processhub.dev/drained": "hub-1"}}})
        await told.until(lambda: told.order("hub-0").get("members") == [{"name": "hub-0", "weight": 1}])

        await told.answered("d", "hub-1")

        assert not [key for key in told.world.server.objects if key.plural == "children"]

    tell(demand(), 0, story)
