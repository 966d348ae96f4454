"""Rollouts of ChildSets: how many children restart at a time, and when the others are left unchanged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from builders import make_member, make_slice
from processhub.api.child import ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.reasons import State
from processhub.controller.observe.rollouts import Rollout, RolloutWatch, of_set
from processhub.controller.store.childsets import KnownSet, known_set
from processhub.registry.grammar import Assignment, Report
from processhub.registry.workloads import encode_workload

OLD, BAD, GOOD = ("sleep", "1"), ("false",), ("sleep", "2")


def digest(command: tuple[str, ...]) -> str:
    return encode_workload(msgspec.convert({"exec": {"command": command}}, ChildSpec))[0]


@dataclass
class Child:
    """A child as in the record and in its member's report."""

    command: tuple[str, ...] = OLD
    epoch: int = 1
    state: str = State.RUNNING
    restarts: int = 0


@dataclass
class Site:
    """A ChildSet of 20 on one member, whose children are restarted as the rollout allows."""

    spec: dict[str, Any] = field(default_factory=dict)
    count: int = 20
    now: float = 0.0

    def __post_init__(self) -> None:
        self.watch = RolloutWatch()
        self.children = {f"x-{number}": Child() for number in range(self.count)}
        self.known: KnownSet | None = None
        self.edit(OLD)

    def edit(self, command: tuple[str, ...]) -> None:
        generation = self.known.metadata.generation + 1 if self.known is not None else 1
        template = {"exec": {"command": command}}
        item = {
            "metadata": {"name": "x", "namespace": "ns", "uid": "u", "generation": generation},
            "spec": {"hub": "hub", "replicas": self.count, "template": template, **self.spec},
        }
        self.known, self.command = known_set(msgspec.convert(item, ChildSet), self.known), command

    def look(self) -> Rollout | None:
        entries, reports = {}, {}
        for child_id, child in self.children.items():
            entries[child_id] = Assignment(uid="u", epoch=child.epoch, workload=digest(child.command))
            reports[child_id] = Report(uid="u", epoch=child.epoch, state=child.state, restarts=child.restarts)
        member = make_member("hub-0", make_slice(entries, reports, holder="p/1"), holder="p/1")
        assert self.known is not None
        return self.watch.look([of_set(self.known)], {"hub-0": member}, self.now).get("u")

    def turn(self, state: str = State.RUNNING, restarts: int = 0) -> list[str]:
        """Restart all children whose turn it is, with this outcome; return their ids."""
        rollout = self.look()
        held = rollout.held if rollout is not None else {}
        due = [
            child_id
            for child_id, child in self.children.items()
            if child.command != self.command and child_id not in held
        ]
        for child_id in due:
            self.children[child_id] = Child(self.command, self.children[child_id].epoch + 1, state, restarts)
        return due

    def count_of(self, command: tuple[str, ...]) -> int:
        return sum(child.command == command for child in self.children.values())


def test_a_failing_template_stops_at_most_max_failed_children() -> None:
    site = Site()
    site.edit(BAD)

    assert len(site.turn(State.FAILED, restarts=1)) == 2, "10 % of 20"
    for _ in range(50):
        site.now += 0.5
        assert site.turn() == []

    rollout = site.look()
    assert rollout is not None
    assert (rollout.stopped, rollout.failed) == (True, ("x-0", "x-1"))
    assert rollout.held == {f"x-{number}": digest(OLD) for number in range(2, 20)}


def test_a_crash_loop_counts_as_failed_even_if_it_was_seen_running() -> None:
    """An exec child is Running as soon as it is executed."""
    site = Site()
    site.edit(BAD)
    site.turn()
    site.now += 1.9
    for child_id in ("x-0", "x-1"):
        site.children[child_id].restarts += 1

    rollout = site.look()

    assert rollout is not None
    assert rollout.stopped


def test_the_next_children_follow_when_the_former_have_proven_to_run() -> None:
    site = Site({"minReadySeconds": 5})
    site.edit(GOOD)
    assert site.turn() == ["x-0", "x-1"]
    assert site.turn() == [], "nothing is known of them yet"

    site.now += 4.9
    rollout = site.look()
    assert rollout is not None
    assert rollout.again_in == pytest.approx(0.1)
    site.now += 0.1
    for _ in range(9):
        assert len(site.turn()) == 2
        site.turn()
        site.now += 5

    assert site.count_of(GOOD) == 20
    assert site.look() is None


@pytest.mark.parametrize(
    ("given", "at_once"), [(1, 1), (7, 7), ("5%", 1), ("11%", 3), ("100%", 20), (100, 20)], ids=str
)
def test_a_share_is_rounded_up(given: int | str, at_once: int) -> None:
    site = Site({"maxFailed": given})
    site.edit(GOOD)

    assert len(site.turn()) == at_once


def test_a_rollout_continues_when_the_template_is_corrected() -> None:
    site = Site()
    site.edit(BAD)
    site.turn(State.FAILED, restarts=3)

    site.edit(GOOD)

    assert {"x-0", "x-1"} <= set(site.turn()), "they are down anyway"
    for _ in range(40):
        site.now += 1
        site.turn()
    assert site.count_of(GOOD) == 20


def test_a_rollout_continues_when_the_children_run_after_all() -> None:
    site = Site()
    site.edit(GOOD)
    site.turn(State.FAILED, restarts=3)
    rollout = site.look()
    assert rollout is not None
    assert rollout.stopped

    for child_id in ("x-0", "x-1"):
        site.children[child_id].state = State.RUNNING
    site.look()
    site.now += 2

    assert site.turn() == ["x-2", "x-3"]


def test_a_set_with_no_running_child_is_rolled_out_at_once() -> None:
    site = Site()
    for child in site.children.values():
        child.state = State.FAILED
    site.edit(GOOD)

    assert len(site.turn()) == 20


def test_a_new_leader_waits_until_it_has_seen_the_children_run() -> None:
    site = Site()
    site.edit(GOOD)
    site.turn()
    site.turn()
    site.now += 2
    site.watch = RolloutWatch()

    assert site.turn() == []
    site.now += 2
    assert len(site.turn()) == 2
