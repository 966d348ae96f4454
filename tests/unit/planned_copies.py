"""Hubs that keep several copies of each child, planned in memory."""

from __future__ import annotations

from typing import Any

from planned_hub import PlannedHub, child, hub_spec

from processhub.api.reasons import Role
from processhub.core.model.membership import Phase
from processhub.core.model.placement import Candidate, rank
from processhub.core.model.snapshot import ChildPod, MemberView
from processhub.core.planning.planner import plan

POD = "pod"  # the workload of a child that is a Pod


def replicated(
    factor: int | str = 2, model: str = "ActivePassive", members: int | list[MemberView] = 3, **spec: Any
) -> PlannedHub:
    redundancy = {"strategy": "Replication", "replicationFactor": factor, "replicationModel": model}
    return PlannedHub(members, hub_spec(redundancy=redundancy, **spec))


def active(hub: PlannedHub, id_: str) -> str:
    (name,) = [name for name, role in hub.roles(id_).items() if role == Role.ACTIVE]
    return name


def ranked(hub: PlannedHub, id_: str) -> list[str]:
    return [name for name, _ in rank(id_, [Candidate(name, member.weight) for name, member in hub.members.items()])]


def lose(hub: PlannedHub, name: str) -> None:
    hub.change(name, phase=Phase.GONE, possibly_running=frozenset())


def one_that_may_not_have_heard(members: int) -> tuple[PlannedHub, str]:
    """A hub without its active copy, and the member that had it before: it is back and may have read the old slice."""
    hub = replicated(3, members=members)
    hub.want([child("a")])
    hub.rest()
    away = active(hub, "a")
    hub.change(away, phase=Phase.HELD, ended=True)
    hub.write(plan(hub.snapshot()))
    heir = next(name for name, entry in hub.record["a"].items() if entry.role == Role.ACTIVE)

    hub.change(away, phase=Phase.LIVE, ended=False, possibly_running=frozenset({"a"}))
    lose(hub, heir)
    return hub, away


def one_copy_left_that_is_passive() -> tuple[PlannedHub, str]:
    """A hub that returns to one copy, and the member that may still run the active one."""
    hub, away = one_that_may_not_have_heard(members=5)
    hub.write(plan(hub.snapshot()))
    hub.spec = hub_spec()
    return hub, away


def with_pods(hub: PlannedHub, id_: str) -> dict[str, ChildPod]:
    """Return a Pod for each copy of the child, as its entry is now, by member."""
    pods = {
        name: ChildPod(name, f"pod of {id_} for {name}", str(entry.started_with), entry.role)
        for name, entry in hub.record[id_].items()
    }
    hub.pods = {id_: tuple(pods.values())}
    return pods


# requested moves


def passive(hub: PlannedHub, id_: str) -> str:
    """Return a member with a passive copy."""
    return next(name for name, role in sorted(hub.roles(id_).items()) if role == Role.PASSIVE)


def without(hub: PlannedHub, id_: str) -> str:
    """Return a member without a copy."""
    return next(name for name in hub.members if name not in hub.record[id_])


def in_rounds_of_late_members(hub: PlannedHub, id_: str, rounds: int = 12) -> list[dict[str, str]]:
    """Return the roles in each round of members that act one round late; no two copies may be active."""
    seen = []
    for _ in range(rounds):
        hub.write(plan(hub.snapshot()))
        roles = [role for role in hub.roles(id_).values() if role == Role.ACTIVE]
        allowed = [entry for entry in hub.record[id_].values() if entry.role == Role.ACTIVE]
        assert len(roles) <= 1
        assert len(allowed) <= 1
        assert not (roles and allowed) or active(hub, id_) == next(
            name for name, entry in hub.record[id_].items() if entry.role == Role.ACTIVE
        ), "one is made active while another is"
        hub.acknowledge()
        seen.append(hub.roles(id_))
    return seen


# forced drains


def bound_twice(kind: str, model: str = "ActivePassive") -> PlannedHub:
    """A child with copies on hub-0 (the first) and hub-1."""
    hub = replicated(2, model, members=2, strategy="Guided" if kind == "guided" else "ConsistentHashing")
    hub.want([child("a", nodes=("hub-0", "hub-1")) if kind == "guided" else child("a", pinned=True)])
    hub.rest()
    assert set(hub.roles("a")) == {"hub-0", "hub-1"}
    return hub
