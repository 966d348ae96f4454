"""Pre hooks and Python handlers at work: what waits for a verdict, what it changes, and what a missing one does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from hookreceiver import Answer, Receiver, failing, receiver
from hookworld import SHORT, condition, delete_child, edit, ready, warnings
from livehub import SLEEP, WAIT, Live, live
from waiting import eventually, until

from localcluster.cluster import Cluster
from processhub import Hub
from processhub.api.meta import API_VERSION, find_condition
from processhub.client.errors import InvalidHook
from processhub.cluster.client import Client
from processhub.cluster.kinds import CHILD_SETS, CHILDREN, HUBS

HANDLERS = Path(__file__).parent / "handlers"
THERE = (
    "there are broken, enrich, hangs, note, note-later (entry points of the group processhub.hooks in the operator's "
    "image)"
)
ENVIRONMENT = {"command": ["sh", "-c", "env > $OUT/$HUB_CHILD_ID-$HUB_EPOCH; exec sleep 1000"]}


@pytest_asyncio.fixture(scope="module")
async def product(cluster: Cluster, api: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    async with live(cluster, api, tmp_path_factory.mktemp("live"), PYTHONPATH=str(HANDLERS)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def ears() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


def says(**answer: Any) -> Answer:
    return lambda _: web.json_response(answer)


def in_python(name: str, event: str, handler: str, priority: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "event": event, "priority": priority, "python": {"handler": handler, **more}}


# PreChildStart


async def test_a_start_waits_for_its_hook_whose_verdict_changes_the_child(
    product: Live, ears: Receiver, tmp_path: Path
) -> None:
    ears.hanging.add("enrich")
    ears.answers["enrich"] = says(metadata={"plan": "gold"}, tags=["vip"], env={"COLOUR": "red", "OUT": str(tmp_path)})
    hub = await product.hub(replicas=1, hooks=[ears.hook("enrich", "PreChildStart", timeoutSeconds=30)])

    await product.child("asked", hub, exec=ENVIRONMENT, tags=["own"], metadata={"k": "v"})
    waiting = await condition(product, "asked", "Placed", "Waiting")
    asked = await ears.once("PreChildStart", "enrich")
    ears.release("enrich")
    node = (await ready(product, "asked"))["asked"]

    assert waiting.message == "waiting for the answer of hook enrich"
    assert asked["data"]["workload"] == {"exec": {**ENVIRONMENT, "stopSignal": "SIGTERM", "stopTarget": "Group"}}
    assert (asked["data"]["tags"], asked["data"]["metadata"]) == (["own"], {"k": "v"})
    seen = await eventually(lambda: text(tmp_path / f"asked-{node.epoch}"), "its environment")
    assert "COLOUR=red" in seen.splitlines()
    async with product.connect(hub) as connected:
        assert set(connected.tag_query("vip")) == set(connected.tag_query("own")) == {"asked"}
        assert set(connected.metadata_query(plan="gold", k="v")) == {"asked"}
    assert len(ears.received("enrich")) == 1


async def text(path: Path) -> str | None:
    return await asyncio.to_thread(lambda: path.read_text() if path.exists() else None)


async def test_hooks_see_the_changes_of_earlier_hooks(product: Live, ears: Receiver) -> None:
    ears.answers["one"] = says(tags=["one"], metadata={"by": "one"})
    ears.answers["two"] = says(metadata={"by": "two"})
    hooks = [ears.hook("two", "PreChildStart"), ears.hook("one", "PreChildStart", priority=1)]
    hub = await product.hub(replicas=1, hooks=[*hooks, *ears.hooks("ChildRegistered")])

    await product.child("chain", hub)

    registered = await ears.once("ChildRegistered")
    assert (registered["data"]["tags"], registered["data"]["metadata"]) == (["one"], {"by": "two"})
    assert [path for path, _ in ears.came] == ["one", "two", "all"]
    assert ears.received("two")[0]["data"]["changes"] == {"tags": ["one"], "metadata": {"by": "one"}}


async def test_a_denied_start_has_its_reason_and_is_tried_again_when_child_or_hooks_change(
    product: Live, ears: Receiver
) -> None:
    ears.answers["strict"] = says(allow=False, reason="no plan")
    hub = await product.hub(replicas=1, hooks=[ears.hook("strict", "PreChildStart")])

    await product.child("denied", hub)
    accepted = await condition(product, "denied", "Accepted", "HookDenied")
    await condition(product, "denied", "Placed", "HookDenied")
    await product.api.patch(CHILDREN, product.namespace, "denied", {"spec": {"metadata": {"plan": "gold"}}})
    await condition(product, "denied", "Accepted", "HookDenied")

    assert accepted.message == "hook strict: no plan"
    assert [event["data"]["metadata"] for event in ears.received("strict")] == [{}, {"plan": "gold"}]
    ears.answers["strict"] = says(allow=True)
    await edit(product, hub, hooks=[ears.hook("strict", "PreChildStart", priority=1)])
    await ready(product, "denied")


async def test_a_denied_edit_leaves_the_last_accepted_spec_running(product: Live, ears: Receiver) -> None:
    hub = await product.hub(replicas=1, hooks=[ears.hook("judge", "PreChildStart")])
    await product.child("edited", hub)
    before = (await ready(product, "edited"))["edited"]

    ears.answers["judge"] = says(allow=False, reason="not this one")
    await product.api.patch(CHILDREN, product.namespace, "edited", {"spec": {"exec": {"command": ["sleep", "2000"]}}})
    denied = await condition(product, "edited", "Accepted", "HookDenied")

    child = await product.api.get(CHILDREN, product.namespace, "edited")
    assert denied.message == "hook judge: not this one"
    assert (child.status.nodes[0].pid, child.status.nodes[0].epoch) == (before.pid, before.epoch)


@pytest.mark.parametrize(("policy", "starts"), [("Ignore", True), ("Fail", False)])
async def test_a_hook_without_a_verdict_follows_its_failure_policy(
    product: Live, ears: Receiver, policy: str, starts: bool
) -> None:
    ears.answers["down"] = failing([503] * 100)
    hub = await product.hub(replicas=1, hooks=[ears.hook("down", "PreChildStart", failurePolicy=policy)])

    await product.child(f"silent-{policy.lower()}", hub)

    if starts:
        await ready(product, "silent-ignore")
    else:
        accepted = await condition(product, "silent-fail", "Accepted", "HookDenied")
        assert accepted.message == ("hook down gave no answer: answered 503 Service Unavailable; asked again in 5 s")
        ears.answers.pop("down")
        await ready(product, "silent-fail")
    said = "hook down (PreChildStart) gave no answer: answered 503 Service Unavailable"
    await eventually(lambda: told_so(product, hub, said), "a Warning")


async def told_so(product: Live, hub: str, said: str) -> bool:
    return said in await warnings(product, hub)


async def test_an_invalid_verdict_counts_as_none(product: Live, ears: Receiver) -> None:
    ears.answers["odd"] = says(args={"a": 1})
    hub = await product.hub(replicas=1, hooks=[ears.hook("odd", "PreChildStart", failurePolicy="Fail")])

    await product.child("odd", hub)

    accepted = await condition(product, "odd", "Accepted", "HookDenied")
    assert "its answer has args, but only python children have them; leave it out" in accepted.message


@pytest.mark.nightly
async def test_a_new_leader_and_cancelled_hooks_leave_changed_children_running(
    cluster: Cluster, api: Client, tmp_path: Path
) -> None:
    async with live(cluster, api, tmp_path) as product, receiver() as ears:
        ears.answers["random"] = lambda event: web.json_response({"env": {"NOW": event["id"]}, "tags": ["changed"]})
        hub = await product.hub(replicas=1, hooks=[ears.hook("random", "PreChildStart")])
        await asyncio.gather(*(product.child(f"kept-{number}", hub) for number in range(4)))
        names = [f"kept-{number}" for number in range(4)]
        before = await ready(product, *names)

        await product.operator.stop()
        await product.operator.start()
        await product.child("new", hub)
        await ready(product, "new")
        await edit(product, hub, hooks=[])
        await product.child("newer", hub)
        await ready(product, "newer")
        await edit(product, hub, hooks=[ears.hook("other", "PreChildStart")])
        await product.child("newest", hub)
        await ready(product, "newest")

        after = await ready(product, *names)
        assert {name: (node.pid, node.epoch) for name, node in after.items()} == {
            name: (node.pid, node.epoch) for name, node in before.items()
        }
        assert sorted(event["subject"] for event in ears.received("random")) == [*names, "new"]
        assert [event["subject"] for event in ears.received("other")] == ["newest"]
        async with product.connect(hub) as connected:
            assert set(connected.tag_query("changed")) == {*names, "new"}


# PreChildStop


async def test_a_hook_is_called_before_a_child_is_ordered_to_stop(product: Live, ears: Receiver) -> None:
    ears.hanging.add("bye")
    hub = await product.hub(replicas=1, hooks=[ears.hook("bye", "PreChildStop", timeoutSeconds=30)])
    await product.child("going", hub)
    node = (await ready(product, "going"))["going"]

    await delete_child(product, "going")
    event = await ears.once("PreChildStop", "bye")

    async with product.connect(hub) as connected:
        assert connected.get_pid("going") == node.pid
        ears.release("bye")
        await eventually(lambda: off(connected, "going"), "off the record")
    assert event["data"] | {"child": "going", "member": node.name, "reason": "Deleted"} == event["data"]
    assert len(ears.received("bye")) == 1


async def off(connected: Hub, child_id: str) -> bool:
    return connected.child_lookup(child_id) is None


async def test_a_hook_cannot_keep_a_child_from_stopping(product: Live, ears: Receiver) -> None:
    ears.answers["no"] = says(allow=False, reason="stay")
    ears.hanging.add("hang")
    hooks = [ears.hook("no", "PreChildStop", priority=1), ears.hook("hang", "PreChildStop", timeoutSeconds=1)]
    hub = await product.hub(replicas=1, hooks=[*hooks, *ears.hooks("ChildStopped")])
    await product.child("ends", hub)
    await ready(product, "ends")

    await product.api.patch(CHILDREN, product.namespace, "ends", {"spec": {"suspend": True}})

    await ears.once("ChildStopped", child="ends")
    assert ears.received("no")[0]["data"]["reason"] == "Suspended"


# PreRedistribution


async def test_moves_wait_for_the_hook_and_a_denial_defers_them(product: Live, ears: Receiver) -> None:
    ears.answers["window"] = says(allow=False, reason="not by day")
    hooks = [ears.hook("window", "PreRedistribution"), *ears.hooks("MigrationDeferred", "ChildMoved")]
    hub = await product.hub(replicas=1, hooks=hooks, timeouts=SHORT)
    names = [f"stay-{number}" for number in range(8)]
    await asyncio.gather(*(product.child(name, hub) for name in names))
    await ready(product, *names)

    await product.api.patch(HUBS, product.namespace, hub, {"spec": {"members": {"replicas": 2}}})
    deferred = await ears.once("MigrationDeferred")
    asked = ears.received("window")[0]

    async def all_stay() -> bool:
        found: Any = await product.api.get(HUBS, product.namespace, hub)
        return {member.name: member.children for member in found.status.members}[f"{hub}-0"] == 8

    await eventually(all_stay, "its status counts all of them")
    assert deferred["data"]["message"] == "hook window: not by day"
    assert asked["data"]["joining"] == [f"{hub}-1"]
    assert asked["data"]["pending"] > 0
    assert ears.received(event="ChildMoved") == []
    ears.answers["window"] = says(allow=True)

    async def balanced() -> bool:
        now = await product.api.get(HUBS, product.namespace, hub)
        condition = find_condition(now.status.conditions, "Balanced")
        return condition is not None and condition.status == "True" and len(ears.received(event="ChildMoved")) > 0

    await eventually(balanced, "moved once it was allowed", within=60)


# Python handlers


async def test_python_handlers_are_called_in_their_own_threads(product: Live, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    args = {"file": str(file)}
    hooks = [
        in_python("later", "ChildStarted", "note-later", args=args, priority=1),
        in_python("now", "ChildStarted", "note", args=args),
    ]
    hub = await product.hub(replicas=1, hooks=hooks)

    await product.child("noted", hub)

    async def both() -> list[Any] | None:
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines] if len(lines) == 2 else None

    first, second = await eventually(both, "two notes")
    assert first["event"]["type"] == "dev.processhub.ChildStarted"
    assert first["event"]["data"]["child"] == "noted"
    assert first["event"] == second["event"]
    assert (first["thread"], second["thread"]) == (
        "hook note-later",
        "hook note",
    )


async def test_a_handler_that_raises_or_hangs_is_reported_on_the_hub_and_affects_nothing_else(product: Live) -> None:
    hooks = [
        in_python("raises", "ChildStarted", "broken", args={"what": "luck"}),
        in_python("hangs", "ChildRegistered", "hangs", timeoutSeconds=1),
    ]
    hub = await product.hub(replicas=1, hooks=hooks)
    other = await product.hub(replicas=1)

    await product.child("troubled", hub)
    await product.child("untroubled", other)
    await ready(product, "troubled", "untroubled")

    raised = "hook raises missed 1 ChildStarted event: ValueError: no luck today"
    await eventually(lambda: told_so(product, hub, raised), "the raised error")
    late = "hook hangs missed 1 ChildRegistered event: not done within 1 s"
    await eventually(lambda: told_so(product, hub, late), "the late one")
    await until(lambda: "ValueError: no luck today" in product.operator.said(), "the operator's log")


async def test_a_python_handler_changes_and_denies_starts(product: Live) -> None:
    args = {"require": ["plan"], "metadata": {"region": "eu"}, "tags": ["enriched"]}
    hub = await product.hub(replicas=1, hooks=[in_python("enrich", "PreChildStart", "enrich", args=args)])

    await product.child("with-plan", hub, metadata={"plan": "gold"})
    await product.child("without-plan", hub)

    await ready(product, "with-plan")
    denied = await condition(product, "without-plan", "Accepted", "HookDenied")
    assert denied.message == "hook enrich: the child's metadata lack plan"
    async with product.connect(hub) as connected:
        assert set(connected.metadata_query(region="eu")) == set(connected.tag_query("enriched")) == {"with-plan"}


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("notes", f" is not known; {THERE}"),
        ("sample_handlers:note", f" is not known; {THERE}"),
        ("kopf:configure", f" is not known; {THERE}"),
        ("os:remove", f" is not known; {THERE}"),
        ("unusable", ": its entry point can't be used: RuntimeError: this module can't be imported"),
        (
            "nothing",
            ": its entry point can't be used: AttributeError: module 'sample_handlers' has no attribute 'nothing'",
        ),
    ],
)
async def test_a_hub_with_an_unusable_handler_is_rejected(product: Live, handler: str, why: str) -> None:
    hub = await product.hub(ready=False, hooks=[in_python("bad", "ChildStarted", handler)])

    async def refused() -> str | None:
        found: Any = await product.api.get(HUBS, product.namespace, hub)
        accepted = find_condition(found.status.conditions, "Accepted")
        return accepted.message if accepted is not None and accepted.status == "False" else None

    assert await eventually(refused, "refused") == f"spec.hooks 'bad': python.handler '{handler}'{why}"
    await product.api.delete(HUBS, product.namespace, hub)


async def test_hooks_are_called_for_static_children_too(product: Live, ears: Receiver) -> None:
    ears.answers["static"] = says(tags=["seen"])
    hub = await product.hub(
        replicas=1,
        hooks=[ears.hook("static", "PreChildStart"), *ears.hooks("ChildRegistered")],
        children=[{"id": "fixed", "exec": SLEEP}],
    )

    registered = await ears.once("ChildRegistered")

    assert (registered["subject"], registered["data"]["tags"]) == ("fixed", ["seen"])
    await ready(product, "fixed")
    assert len(ears.received("static")) == 1
    await edit(product, hub, hooks=[])


async def test_hooks_are_called_once_for_each_child_of_a_childset(product: Live, ears: Receiver) -> None:
    ears.answers["set"] = lambda event: web.json_response({"metadata": {"asked": event["subject"]}})
    hub = await product.hub(replicas=2, hooks=[ears.hook("set", "PreChildStart"), *ears.hooks("ChildStarted")])
    template = {"exec": SLEEP}
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "ChildSet",
        "metadata": {"name": f"{hub}-set"},
        "spec": {"hub": hub, "replicas": 5, "template": template},
    }

    await product.api.create(CHILD_SETS, product.namespace, manifest)
    first = [f"{hub}-set-{number}" for number in range(5)]
    for child_id in first:
        await ears.once("ChildStarted", child=child_id)
    await product.api.patch(CHILD_SETS, product.namespace, f"{hub}-set", {"spec": {"replicas": 7}})
    ids = [f"{hub}-set-{number}" for number in range(7)]
    for child_id in ids:
        await ears.once("ChildStarted", child=child_id)

    assert sorted(event["subject"] for event in ears.received("set")) == ids
    async with product.connect(hub) as connected:
        found = {child_id for child_id in ids if set(connected.metadata_query(asked=child_id)) == {child_id}}
        assert found == set(ids)


# the client


async def test_the_client_registers_and_cancels_hooks(product: Live, ears: Receiver) -> None:
    name = await product.hub(replicas=1, hooks=[ears.hook("present", "ChildStarted")])
    audit = ears.hook("audit", "ChildStarted", priority=10)

    async with product.connect(name) as hub:
        await hub.register_hook_handlers([audit, ears.hook("strict", "PreChildStart")])
        ears.answers["strict"] = says(allow=False, reason="closed")
        result = await hub.start_children([{"id": "c1", "exec": SLEEP}], wait=True, timeout=WAIT)
        assert (result.errors["c1"].reason, result.errors["c1"].message) == ("HookDenied", "hook strict: closed")
        await hub.cancel_hook_handlers(["strict"])
        await hub.wait_children(["c1"], timeout=WAIT)
        await ears.once("ChildStarted", "audit", child="c1")
        await ears.once("ChildStarted", "present", child="c1")
        with pytest.raises(InvalidHook, match="has a hook audit already; cancel that, or take another name"):
            await hub.register_hook_handlers([audit])
        with pytest.raises(InvalidHook, match="has no hook strict; there are: audit, present"):
            await hub.cancel_hook_handlers(["audit", "strict"])
        with pytest.raises(
            InvalidHook, match=r'webhook\.url: Invalid value: "string": must be a URL with http or https'
        ):
            await hub.register_hook_handlers([{"name": "x", "event": "ChildStarted", "webhook": {"url": "audit"}}])
        with pytest.raises(InvalidHook, match=r"not registered: .*'no_such:f' is not known; there are "):
            await hub.register_hook_handlers([in_python("x", "ChildStarted", "no_such:f")])
        stored: Any = await product.api.get(HUBS, product.namespace, name)
        assert [hook.name for hook in stored.spec.hooks] == ["present"], "its manifest can be applied again"
        assert stored.status.hooks.in_effect == ("present", "audit")
        await hub.cancel_hook_handlers(["present"])
        await hub.start_children([{"id": "c2", "exec": SLEEP}], wait=True, timeout=WAIT)
        await ears.once("ChildStarted", "audit", child="c2")
        assert not ears.received("present", child="c2"), "one of the spec can be cancelled too"


async def test_hooks_of_many_clients_at_once_are_all_registered(product: Live, ears: Receiver) -> None:
    name = await product.hub(replicas=1)
    names = [f"hook-{number}" for number in range(6)]

    async with product.connect(name) as hub:
        await asyncio.gather(*(hub.register_hook_handlers([ears.hook(each, "ChildMoved")]) for each in names))
        stored: Any = await product.api.get(HUBS, product.namespace, name)
        assert sorted(stored.status.hooks.in_effect) == names
        await hub.cancel_hook_handlers(names)


async def test_the_blocking_client_registers_and_cancels_hooks(product: Live, ears: Receiver) -> None:
    name = await product.hub(replicas=1)

    def work() -> None:
        with Hub.connect_sync(name, namespace=product.namespace, kubeconfig=product.kubeconfig) as hub:
            hub.register_hook_handlers([ears.hook("audit", "ChildMoved")])
            hub.cancel_hook_handlers(["audit"])
            with pytest.raises(InvalidHook):
                hub.cancel_hook_handlers(["audit"])

    await asyncio.to_thread(work)
