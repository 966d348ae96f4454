"""The counterparts of ProcessHub's settings: fields of a Hub, or the behaviour that makes them unnecessary."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from pathlib import Path

import pytest
from hookreceiver import Receiver
from hookworld import condition
from livehub import SLEEP, WAIT, Live, places, sleepers, started
from paritytable import fields
from sharedhubs import edited
from waiting import alive, until

from processhub import Hub
from processhub.client.errors import Timeout
from processhub.cluster.kinds import CHILDREN


@pytest.mark.row("Settings: hub_id")
async def test_hubs_are_independent_of_each_other(product: Live, plain: Hub, tight: Hub) -> None:
    await started(plain, sleepers("twin"))
    await product.child("twin-of-tight", "tight", id="twin")
    await tight.wait_children(["twin"], timeout=WAIT)

    await plain.stop_children(["twin"], wait=True)

    assert plain.child_lookup("twin") is None
    assert tight.is_alive("twin")


@pytest.mark.row("Settings: child_specs")
async def test_static_children_start_and_end_with_their_spec(product: Live, plain: Hub) -> None:
    await plain.wait_children(["fixed"], timeout=WAIT)

    async with edited(product, plain, children=[{"id": child_id, "exec": SLEEP} for child_id in ("fixed", "more")]):
        assert (await plain.wait_children(["more"], timeout=WAIT)).ok

    await until(lambda: plain.child_lookup("more") is None, "stopped with its entry")
    assert plain.is_alive("fixed")


@pytest.mark.row("Settings: hooks")
async def test_hooks_of_the_spec_call_webhooks_and_python_handlers(
    product: Live, plain: Hub, ears: Receiver, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    python = {"handler": "note", "args": {"file": str(notes)}}
    hooks = [ears.hook("web", "ChildStarted"), {"name": "in-python", "event": "ChildStarted", "python": python}]

    async with edited(product, plain, hooks=hooks):
        await started(plain, sleepers("hooked"))

        await ears.once("ChildStarted", "web", child="hooked")
        await until(notes.exists, "told in Python")


@pytest.mark.row("Settings: discovery interval")
async def test_members_that_join_and_leave_are_noticed_without_an_interval_to_set(product: Live, tight: Hub) -> None:
    assert not [path for path in fields() if "interval" in path.lower() or "discover" in path.lower()]
    assert tight.nodes() == ["tight-0"]

    async with edited(product, tight, members={"replicas": 2}):
        await until(lambda: tight.nodes() == ["tight-0", "tight-1"], "the second member seen")

    await until(lambda: tight.nodes() == ["tight-0"], "its end seen")


@pytest.mark.row("Settings: migration base timeout")
async def test_a_handover_that_takes_too_long_leaves_the_child_where_it_is(hot: Hub, ears: Receiver) -> None:
    first = (await started(hot, [{"id": "hoards", "python": {"target": "sample_actors:Hoarder"}}]))["hoards"]
    (other,) = set(hot.nodes()) - {first}

    await hot.migrate_child("hoards", other)  # spec.migration.handoverTimeoutSeconds is 8

    await ears.once("MigrationDeferred", "hot", child="hoards", reason="Kept")
    await hot.wait_children(["hoards"], timeout=WAIT)
    assert places(hot)["hoards"] == first
    await hot.stop_children(["hoards"], wait=True)


@pytest.mark.row("Settings: max_restarts, max_seconds")
async def test_a_restart_storm_fails_one_child_and_leaves_its_siblings_alone(product: Live, tight: Hub) -> None:
    await started(tight, sleepers("sibling"))
    pid = tight.get_pid("sibling")

    await product.child("storm", "tight", exec={"command": ["false"]})

    failed = await condition(product, "storm", "Ready", "RestartsExceeded")
    assert failed.message.startswith("more than 2 restarts in 600 s")
    assert tight.get_pid("sibling") == pid
    await tight.stop_children(["storm"])


@pytest.mark.row("Settings: shutdown_timeout")
async def test_a_child_that_does_not_end_is_killed(tight: Hub) -> None:
    await started(tight, sleepers("deaf"))
    pid = tight.get_pid("deaf") or pytest.fail("no process")

    os.kill(pid, signal.SIGSTOP)  # it can't handle the order to stop
    stopped = await tight.stop_children(["deaf"], wait=True, timeout=WAIT)  # spec.timeouts.stopSeconds is 1

    assert stopped.ok
    assert not alive(pid)


@pytest.mark.row("Settings: cluster-event debounce")
async def test_a_change_is_acted_on_while_further_changes_arrive(product: Live, plain: Hub) -> None:
    await product.child("eager", "plain")

    async def change_and_change() -> None:
        for number in itertools.count():
            edit = {"spec": {"tags": [f"number-{number}"]}}
            await product.api.patch(CHILDREN, product.namespace, "eager", edit)

    changing = asyncio.create_task(change_and_change())
    try:
        assert (await plain.wait_children(["eager"], timeout=WAIT)).ok
        assert not changing.done()
    finally:
        changing.cancel()


@pytest.mark.row("Settings: request timeout")
async def test_a_request_fails_after_its_timeout(tight: Hub) -> None:
    await started(tight, [{"id": "dawdles", "python": {"target": "sample_actors:Worker"}}])

    with pytest.raises(Timeout) as raised:
        await tight.call("dawdles", {"sleep": 600})  # spec.timeouts.requestSeconds is 1

    assert (raised.value.status, raised.value.code) == (504, "timeout")
    await tight.stop_children(["dawdles"], wait=True)
