"""Requests that wait for a child in the registry."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from processhub.agent.registry.childwatch import RegistryWatch


@pytest.mark.parametrize("unowned", [False, True])
async def test_requests_are_woken_in_the_order_in_which_they_came(unowned: bool) -> None:
    watch, woken = RegistryWatch(list, lambda child_id: False), list[int]()
    with ExitStack() as waiting:
        for number in range(50):
            event = waiting.enter_context(watch.on("d"))
            event.heard = lambda number=number: woken.append(number)
            if unowned:
                watch.set_unowned(event, unowned=True)

        (watch.look_again if unowned else watch.wake)()

    assert woken == list(range(50))
