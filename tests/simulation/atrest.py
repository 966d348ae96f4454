"""Checks of a hub at rest: what runs, what is on record, and what the statuses say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from memoryapi import Json
from memoryrequests import Key

from processhub.api.naming import ANNOTATION_QUORUM_RESET
from processhub.api.reasons import GroupReason, Reason
from processhub.registry.grammar import Assignment, parse_assignment

from .childpods import PodRun
from .copies import all_active, copies_of, factor_of
from .finishing import rests
from .machines import Run
from .naming import command_of, is_bound, is_member, is_per_node, members_of, taking

if TYPE_CHECKING:
    from .world import World

# Reasons for which a declared child may be at rest without a process.
_GOOD_REASONS = {Reason.SUSPENDED, Reason.NO_MEMBERS, Reason.CAPACITY_EXCEEDED, Reason.MEMBER_UNAVAILABLE}


def unrest(world: World) -> list[str]:
    """Return what is wrong at rest, each as a sentence."""
    objects = world.server.objects
    hub = objects.get(Key("hubs", "ns", "hub"))
    if hub is None:
        return ["there is no hub"]
    runs = [run for run in world.checks.runs if not run.given_up]
    found = [
        *(
            f"pod {key.name} is not ready"
            for key, pod in objects.items()
            if key.plural == "pods" and is_member(pod) and not _is(pod, "Ready")
        ),
        *(
            f"pod {key.name} is not as the template says"
            for key, pod in objects.items()
            if world.workloads.rolls and key.plural == "pods" and is_member(pod) and world.workloads.is_outdated(pod)
        ),
    ]
    entries = {
        (item["spec"]["member"], child_id): parse_assignment(text)
        for key, item in objects.items()
        if key.plural == "registryslices"
        for child_id, text in item["spec"]["entries"].items()
    }
    # A bound child that was resumed while its member is drained starts when that is undrained (docs/concepts.md).
    drained = {child_id for (member, child_id), entry in entries.items() if entry.asleep and member not in taking(hub)}
    declared = {key.name: item for key, item in objects.items() if key.plural == "children"}
    ids_of_sets = [child_id for key, item in objects.items() for child_id in ids_of(key, item)]
    contested = {child_id for child_id, count in Counter([*declared, *ids_of_sets]).items() if count > 1}
    for name, item in declared.items():
        if name not in contested:
            found += _child_unrest(item, [run for run in runs if run.child_id == name], hub)
    for key, item in objects.items():
        if ids := ids_of(key, item):
            others = contested | drained if is_bound(item) else contested
            found += _set_unrest(item, [each for each in ids if each not in others], runs, hub)
            declared.update(dict.fromkeys(ids, item))
    found += _hub_unrest(hub, {member for member, child_id in entries if is_bound(declared.get(child_id, {}))})
    found += _demand_unrest(world, hub, declared, entries)
    demanded = {child_id for (_, child_id), entry in entries.items() if entry.uid == hub["metadata"]["uid"]}
    declared.update(dict.fromkeys(demanded, hub))
    for run in runs:
        entry = entries.get((run.member, run.child_id))
        if entry is None or entry.epoch != run.epoch:
            found.append(f"child {run.child_id} runs on {run.member} with epoch {run.epoch}, which is on no record")
        if run.child_id not in declared:
            found.append(f"child {run.child_id} runs on {run.member}, and is not declared")
    for name, item in declared.items():
        # While the hub is suspended, a child may lose its place; it runs again when the hub is resumed.
        if (
            rests(item)
            and name not in contested
            and not hub["spec"].get("suspend")
            and sum(child_id == name for _, child_id in entries) != 1
        ):
            found.append(f"child {name} has ended, and is on record on {[at for at, own in entries if own == name]}")
    if not hub["spec"].get("suspend"):
        for name in contested:
            places = {(run.member, name) for run in runs if run.child_id == name}
            owners = {entry.uid for place, entry in entries.items() if place in places}
            if len(owners) != 1 and not _may_rest(name, objects):
                found.append(f"child {name} is declared more than once, and runs for {owners}")
    for member, child_id in entries:
        if child_id not in declared:
            found.append(f"child {child_id} is on record on {member}, and is not declared")
    return found


def ids_of(key: Key, item: Json) -> list[str]:
    """The ids of a ChildSet's children; other objects have none."""
    if key.plural != "childsets":
        return []
    spec = item["spec"]
    return list(spec["ids"]) if "ids" in spec else [f"{key.name}-{number}" for number in range(spec["replicas"])]


def _may_rest(name: str, objects: Mapping[Key, Json]) -> bool:
    """Whether the owner of an id that several declare may be suspended, rejected, bound to a member, or finished."""
    child = objects.get(Key("children", "ns", name))
    if child is not None and (child["spec"].get("nodes") or rests(child)):
        return True
    own = [item for key, item in objects.items() if name in ids_of(key, item)] + ([child] if child is not None else [])
    return any(item["spec"].get("template", item["spec"]).get("suspend") or is_bound(item) for item in own)


def _hub_unrest(hub: Json, bound: set[str]) -> list[str]:
    """``bound``: the members that have children on record which must not be moved."""
    status = hub.get("status", {})
    found = []
    if status.get("observedGeneration") != hub["metadata"]["generation"]:
        found.append("the hub's status is of an earlier generation")
    if hub["spec"].get("suspend"):
        if _condition(hub, "Ready").get("reason") != Reason.SUSPENDED:
            found.append(f"the hub is suspended, and its Ready is {_condition(hub, 'Ready')}")
    elif not _is(hub, "Ready"):
        found.append(f"the hub is not Ready: {_condition(hub, 'Ready').get('message')}")
    if ANNOTATION_QUORUM_RESET in hub["metadata"].get("annotations", {}):
        found.append("the order to reset the quorum is not answered")
    if _is(hub, "Stalled") and not (bound and _condition(hub, "Stalled").get("reason") == GroupReason.STRANDED):
        found.append(f"the hub is Stalled: {_condition(hub, 'Stalled').get('message')}")
    there = [member["name"] for member in status.get("members", ())]
    names = {*members_of(hub), *bound & {*there}}
    if not is_per_node(hub):  # A StatefulSet has all members before the last one.
        names |= {f"hub-{ordinal}" for ordinal in range(1 + max(int(name[4:]) for name in names))}
    # A member that is scaled away stays as long as the creation of its slice may still be stored.
    members = [member for member in status.get("members", ()) if member["name"] in names or member["pod"]]
    if sorted(member["name"] for member in members) != sorted(names):
        found.append(f"the hub's status has the members {there}")
    return found


def _child_unrest(item: Json, runs: list[Run | PodRun], hub: Json) -> list[str]:
    name, status = item["metadata"]["name"], item.get("status", {})
    ready = _condition(item, "Ready")
    found = []
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        found.append(f"the status of child {name} is of an earlier generation")
    if item["spec"].get("nodes"):  # The edit is rejected; the last valid one is in effect, if it is known.
        if _is(item, "Accepted") or not _is(item, "Stalled"):
            found.append(f"child {name} is not valid, and its status is {status}")
        return found
    if "processhub.dev/move-to" in item["metadata"].get("annotations", {}):
        found.append(f"the order to move child {name} is not answered")
    sleeps = item["spec"].get("suspend") or hub["spec"].get("suspend")
    wanted = 0 if sleeps or (not runs and rests(item)) else copies_of(hub)
    if not _fits(len(runs), wanted, item, hub) and not (not runs and ready.get("reason") in _GOOD_REASONS):
        places = [run.where for run in runs]
        found.append(f"child {name} runs on {places}; its Ready is {ready.get('status')}, {ready.get('reason')}")
    found += [
        f"child {name} runs {run.command} on {run.member}, and its spec has another command"
        for run in runs
        if list(run.command) != command_of(item["spec"])
    ]
    active = [run for run in runs if run.role_now == "Active"]
    if runs and len(active) != _active_ones(hub, len(runs)):
        found.append(f"child {name} has {len(active)} active copies")
    if active and ready.get("status") != "True":
        found.append(f"child {name} runs, and its Ready is {ready.get('status')}, {ready.get('reason')}")
    if active and (status.get("member") not in {run.member for run in active} or status.get("state") != "Running"):
        found.append(f"child {name} runs on {active[0].member}; its status says {status.get('member')}")
    if not active and ready.get("status") == "True":
        found.append(f"child {name} does not run, and is Ready")
    return found


def _set_unrest(item: Json, ids: list[str], runs: list[Run | PodRun], hub: Json) -> list[str]:
    name, status, found = item["metadata"]["name"], item.get("status", {}), []
    if status.get("observedGeneration") != item["metadata"]["generation"]:
        found.append(f"the status of set {name} is of an earlier generation")
    if is_bound(item) and _condition(item, "Ready").get("reason") == Reason.MEMBER_UNAVAILABLE:
        return found  # Those whose members are left run, and the others wait.
    sleeps = item["spec"]["template"].get("suspend") or hub["spec"].get("suspend")
    copies, desired = (0, 0) if sleeps else (copies_of(hub), len(ids))
    counts = status.get("desired"), status.get("running")
    if ids == ids_of(Key("childsets", "", name), item) and counts != (desired, desired):
        found.append(f"set {name} has {desired} children; its status says {status}")
    command = command_of(item["spec"]["template"])
    for child_id in ids:
        own = [run for run in runs if run.child_id == child_id]
        active = sum(run.role_now == "Active" for run in own)
        if not _fits(len(own), copies, item, hub) or active != _active_ones(hub, len(own)):
            found.append(f"child {child_id} of set {name} runs on {[run.where for run in own]}")
        found += [f"child {child_id} runs {run.command}" for run in own if list(run.command) != command]
    return found


def _demand_unrest(
    world: World, hub: Json, declared: Mapping[str, Json], entries: Mapping[tuple[str, str], Assignment]
) -> list[str]:
    """Return what is wrong with the children that requests have started."""
    template, uid, found = hub["spec"].get("onDemand"), hub["metadata"]["uid"], []
    own = {place: entry for place, entry in entries.items() if entry.uid == uid}
    for (member, child_id), entry in own.items():
        runs = [run for run in world.checks.runs if run.child_id == child_id and run.member == member]
        if child_id in declared and _is(declared[child_id], "Accepted"):
            found.append(f"child {child_id} is declared, and is on record on {member} as one that a request started")
        if template is None:
            found.append(f"child {child_id} is on record on {member}, and the hub has no onDemand")
        elif len(runs) != (0 if hub["spec"].get("suspend") else 1):
            found.append(f"child {child_id} is on record on {member}, and runs {len(runs)} times there: {entry}")
        elif runs and list(runs[0].command) != command_of(template):
            found.append(f"child {child_id} runs {runs[0].command} on {member}, and onDemand has another command")
    found += [
        f"child {child_id} is on record on {member} and waits: {entry}"
        for (member, child_id), entry in entries.items()
        if entry.uid == "-"
    ]
    ids, most = {child_id for _, child_id in own}, (template or {}).get("max")
    if most is not None and len(ids) > most:
        found.append(f"{len(ids)} children run on demand, and onDemand.max is {most}")
    for key, item in world.server.objects.items():
        if key.plural == "registryslices" and item.get("status", {}).get("asks"):
            found.append(f"{key.name} asks for {item['status']['asks']}")
    for annotation in ("processhub.dev/stop", "processhub.dev/move-to"):
        if (orders := hub["metadata"].get("annotations", {}).get(annotation)) is not None:
            found.append(f"the orders of {annotation} are not answered: {orders}")
    if template is not None:
        found += _count_unrest(hub, entries, len({run.child_id for run in world.checks.runs}))
    return found


def _count_unrest(hub: Json, entries: Mapping[tuple[str, str], Assignment], runs: int) -> list[str]:
    status = hub.get("status", {})
    ids, counts = {child_id for _, child_id in entries}, status.get("children", {})
    found = []
    if status.get("registrySize", 0) != len(ids):
        found.append(f"{len(ids)} children are on record, and the hub's registrySize is {status.get('registrySize')}")
    if copies_of(hub) == 1 and counts.get("running") != runs:
        found.append(f"{runs} children run, and the hub's status says {counts}")
    return found


def _active_ones(hub: Json, runs: int) -> int:
    """How many of so many copies are active."""
    return runs if all_active(hub) else min(1, runs)


def _fits(runs: int, wanted: int, item: Json, hub: Json) -> bool:
    """Whether so many copies run. Copies of a bound child stay on a member that is drained, or wait for one."""
    return runs == wanted or (wanted > 0 and is_bound(item) and 1 <= runs <= max(factor_of(hub), wanted))


def _condition(item: Json, kind: str) -> Json:
    conditions = item.get("status", {}).get("conditions", ())
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _is(item: Json, kind: str) -> bool:
    return _condition(item, kind).get("status") == "True"
