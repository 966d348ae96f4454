"""A hub that hands over the state of its children, planned in memory.

Its agents quiesce, send and receive exactly as ordered. A child's state is created at its first start. It may be lost
only with the last copy of it, or if a member is drained and the state can't be had.
"""

from __future__ import annotations

from typing import Any

import msgspec
from planned_hub import PlannedHub, child, children_of

from processhub.api.hub import HubSpec
from processhub.api.reasons import State
from processhub.core.model.membership import Phase
from processhub.core.model.snapshot import HubSnapshot, OnRecord
from processhub.core.planning.handover import goes_to
from processhub.core.planning.planner import plan
from processhub.registry.grammar import Assignment

SUM = "5eed"


def hot_spec() -> HubSpec:
    return msgspec.convert({"migration": {"strategy": "HotSwap"}}, HubSpec)


class HandingHub(PlannedHub):
    """A hub whose agents hand states over. ``unwilling`` children stay; ``cut`` members are unreachable."""

    def __init__(self, members: int = 3) -> None:
        super().__init__(members, hot_spec())
        self.quiet: set[tuple[str, str]] = set()  # (member, id) that is quiesced
        self.state: dict[tuple[str, str], str] = {}  # (member, id) → the uid whose state a running or quiesced copy has
        self.gave: dict[tuple[str, str], str] = {}
        self.kept: dict[tuple[str, str], str] = {}
        self.got: dict[tuple[str, str], tuple[int, str]] = {}  # epoch of the waiting entry, uid
        self.born: set[str] = set()  # uids that have run
        self.unwilling: set[str] = set()
        self.cut: set[str] = set()
        self.lost_states: list[str] = []
        self.failing: set[tuple[str, str]] = set()  # (member, id) that does not come up
        self.finished: set[tuple[str, str]] = set()  # (member, id) that has completed
        self.given_up: set[tuple[str, str]] = set()  # (member, id) that has stopped because it did not come up
        self.came_up: set[tuple[str, str]] = set()  # (member, id) that is not Running, but was
        self.deferred: frozenset[str] = frozenset()

    def change(self, name: str, **fields: Any) -> None:
        super().change(name, **fields)
        if fields.get("phase") is Phase.GONE or fields.get("ended"):
            for kept in (self.state, self.gave, self.kept, self.got):
                for key in [key for key in kept if key[0] == name]:
                    del kept[key]  # type: ignore[attr-defined]
            self.quiet = {key for key in self.quiet if key[0] != name}

    def snapshot(self, budget: int = 10**9) -> HubSnapshot:
        snapshot = super().snapshot(budget)
        record = {id_: tuple(self._told_of(place, id_) for place in places) for id_, places in snapshot.record.items()}
        return msgspec.structs.replace(snapshot, record=record, deferred=self.deferred)

    def _told_of(self, place: OnRecord, id_: str) -> OnRecord:
        key = (place.member, id_)
        epoch, _ = self.got.get(key, (0, ""))
        state = "" if key in self.quiet else place.state
        if state and key in self.failing | self.finished | self.given_up:
            state = State.FAILED if key in self.failing else State.STOPPED
        return msgspec.structs.replace(
            place,
            state=state,
            came_up=bool(state) and key in self.came_up | self.finished,
            gave=self.gave.get(key, ""),
            kept=self.kept.get(key, ""),
            got=SUM if epoch == place.entry.epoch and place.entry.wait else "",
        )

    def acknowledge(self, *names: str) -> None:
        for name in names or list(self.members):
            if self.members[name].phase is not Phase.LIVE:
                continue
            for id_ in list(self.running[name]):
                if not self._same(name, id_):
                    del self.running[name][id_]
                    self._forget(name, id_)
            for id_, places in self.record.items():
                if name in places and not places[name].wait:
                    self._act(name, id_, places[name])
                elif name in places:
                    self._look_for_state(name, id_, places[name])
            for key in [key for key in self.got if key[0] == name and name not in self.record.get(key[1], {})]:
                del self.got[key]
            self.change(name, possibly_running=frozenset(), settled=True)

    def _same(self, name: str, id_: str) -> bool:
        now, run = self.record.get(id_, {}).get(name), self.running[name][id_]
        same = now is not None and not now.wait and now.uid == run.uid and now.workload == run.workload
        return same and now is not None and now.started_with == run.started_with

    def _forget(self, name: str, id_: str) -> None:
        key = (name, id_)
        self.quiet.discard(key)
        for kept in (self.state, self.gave, self.kept):
            kept.pop(key, None)

    def _act(self, name: str, id_: str, entry: Assignment) -> None:
        key = (name, id_)
        if id_ not in self.running[name]:
            if entry.to:
                self.kept[key] = f"{entry.to.split(':')[1]}:stateless"
                return
            if entry.state and self.got.get((name, id_), (0, ""))[1] != entry.uid and self._sources(name, id_):
                self.kept[key] = f"{entry.epoch}:lost"
                return
            self._start(name, id_, entry)
        elif entry.to and not self.gave.get(key, "").startswith(entry.to.split(":")[1]):
            self._hand_over(name, id_, entry)
        elif not entry.to:
            self.quiet.discard(key)
            self.gave.pop(key, None)
            self.kept.pop(key, None)
        self.running[name][id_] = entry

    def _look_for_state(self, name: str, id_: str, entry: Assignment) -> None:
        """Report whether a source has sent the state for this waiting entry while it is not here (any more)."""
        sources = self._sources(name, id_)
        gave = any(self.gave.get((source, id_), "").startswith(f"{entry.epoch}:") for source in sources)
        if gave and self.got.get((name, id_), (0, ""))[0] != entry.epoch:
            self.kept[name, id_] = f"{entry.epoch}:lost"

    def _sources(self, name: str, id_: str) -> list[str]:
        """Return the members that are to hand the child over to this one."""
        return [source for source, entry in self.record.get(id_, {}).items() if goes_to(entry) == name]

    def _start(self, name: str, id_: str, entry: Assignment) -> None:
        _, uid = self.got.pop((name, id_), (0, ""))
        if entry.state and uid == entry.uid:
            self.state[name, id_] = uid
        elif entry.uid in self.born and entry.uid in self._copies(id_):
            self.lost_states.append(id_)
        self.state[name, id_] = entry.uid
        self.born.add(entry.uid)

    def _copies(self, id_: str) -> set[str]:
        held = {uid for (_, other), uid in self.state.items() if other == id_}
        return held | {uid for (_, other), (_, uid) in self.got.items() if other == id_}

    def _hand_over(self, name: str, id_: str, entry: Assignment) -> None:
        target, epoch, *must = entry.to.split(":")
        waiting = self.record.get(id_, {}).get(target)
        if id_ in self.unwilling and not must:
            self.kept[name, id_] = f"{epoch}:refused"
            return
        self.quiet.add((name, id_))
        there = target not in self.cut and self.members[target].phase is Phase.LIVE
        if there and waiting is not None and waiting.wait and waiting.epoch == int(epoch):
            self.got[target, id_] = (int(epoch), self.state[name, id_])
            self.gave[name, id_] = f"{epoch}:{SUM}"
        else:
            self.kept[name, id_] = f"{epoch}:failed"

    def acting(self, id_: str) -> list[str]:
        """Return the members with more than a quiesced copy of it."""
        return [name for name, runs in self.running.items() if id_ in runs and (name, id_) not in self.quiet]


def started(count: int = 30, members: int = 3) -> HandingHub:
    hub = HandingHub(members)
    hub.want(children_of(count))
    hub.rest()
    return hub


def _sent(hub: HandingHub) -> tuple[str, str]:
    """Return source and target of a child whose state is with both and not committed yet."""
    hub.want([child("a")])
    hub.rest()
    (source,) = hub.acting("a")
    hub.change(source, draining=True)
    for _ in range(2):
        hub.write(plan(hub.snapshot()))
    target = goes_to(hub.record["a"][source])
    hub.acknowledge()
    return source, target


def _committed(hub: HandingHub) -> tuple[str, str]:
    source, target = _sent(hub)
    hub.write(plan(hub.snapshot()))
    return source, target


def _restart(hub: HandingHub, name: str) -> None:
    """The member's agent ends with all of its memory and restarts (onRestart Hold)."""
    hub.change(name, phase=Phase.HELD, ended=True)
    hub.write(plan(hub.snapshot()))
    hub.change(name, phase=Phase.LIVE, ended=False)
