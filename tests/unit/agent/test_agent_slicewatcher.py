"""The runs that a member's slices ask for."""

from __future__ import annotations

from typing import Any

import pytest

from builders import make_client, make_slice
from processhub.agent.env import Environment
from processhub.agent.registry.slicewatcher import DesiredRun, SliceWatcher
from processhub.api.child import Exec, Workload
from processhub.api.meta import ObjectMeta, PartialObject
from processhub.api.slice import Settings
from processhub.cluster.decoding import WatchEvent
from processhub.registry.grammar import Assignment, format_assignment
from processhub.registry.workloads import encode_workload

ENV = Environment("h", "default", "uid", "h-0", "h-0", "pod", "127.0.0.1", "node")
DIGEST, TEXT = encode_workload(Workload(exec=Exec(command=("x",))))


class Followed:
    """A SliceWatcher that gets slices as from its informer."""

    def __init__(self) -> None:
        self.desired: dict[str, DesiredRun | None] = {}
        self.own: list[str] = []
        self.settings: list[Settings] = []
        self.version = 0
        self.slices = SliceWatcher(make_client(), ENV, "pod/me")
        self.slices.desired_changed.listen(self.desired.update)
        self.slices.own_changed.listen(lambda _, name: self.own.append(name))
        self.slices.settings_changed.listen(self.settings.append)

    def put(self, name: str, entries: dict[str, int | str], *, term: int = 1, member: str = "h-0", **spec: Any) -> None:
        self.version += 1
        texts = {
            child: value
            if isinstance(value, str)
            else format_assignment(Assignment(uid=f"u-{child}", epoch=value, workload=DIGEST))
            for child, value in entries.items()
        }
        given = {
            "hub": "h",
            "hub_uid": "uid",
            "workloads": {DIGEST: TEXT},
            "namespace": "default",
            "generation": self.version,
            "resource_version": str(self.version),
        }
        self.slices.informer.put(make_slice(texts, member=member, term=term, name=name, uid=name, **given | spec))

    def delete(self, name: str) -> None:
        self.version += 1
        metadata = ObjectMeta(namespace="default", name=name, resource_version=str(self.version))
        self.slices.informer._event(WatchEvent("DELETED", PartialObject(metadata=metadata)))

    def runs(self) -> dict[str, int]:
        """Return the epochs of the runs that are to be started."""
        found = {child: desired for child, desired in self.desired.items() if desired is not None and desired.startable}
        return {child: desired.assignment.epoch for child, desired in found.items()}


@pytest.fixture
def followed() -> Followed:
    return Followed()


def test_the_union_of_the_members_slices_is_desired(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 1})
    followed.put("h.h-0.1", {"b": 2})
    followed.put("h.h-1.0", {"c": 3}, member="h-1")

    assert followed.runs() == {"a": 1, "b": 2}


def test_the_highest_term_then_epoch_wins(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 9}, term=2)
    followed.put("h.h-0.1", {"a": 7}, term=3)
    assert followed.desired["a"] is not None
    assert followed.desired["a"].slice == "h.h-0.1"

    followed.put("h.h-0.0", {"a": 9}, term=3)
    assert followed.desired["a"].slice == "h.h-0.0"


def test_a_removed_entry_is_the_order_to_stop_and_a_broken_one_is_not(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 1, "b": 1})

    followed.put("h.h-0.0", {"a": "not an entry"})

    assert followed.desired["b"] is None
    assert followed.desired["a"] is not None


def test_slices_below_the_highest_term_start_nothing_until_they_have_it(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 1}, term=4)
    followed.put("h.h-1.0", {}, term=5, member="h-1")
    assert followed.runs() == {}
    assert followed.desired["a"] is not None  # this is no order to stop either

    followed.put("h.h-0.0", {"a": 1}, term=5)
    assert followed.runs() == {"a": 1}


def test_another_hubs_slices_are_ignored(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 1}, hub_uid="older")
    followed.put("g.h-0.0", {"b": 1}, hub="g")
    followed.put("h.h-9.0", {}, member="h-9", term=99, hub_uid="older")

    assert followed.desired == {}
    assert followed.slices.highest_term == 0


def test_an_entry_granted_to_another_holder_is_not_started(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 1}, granted_to="pod/earlier")
    followed.put("h.h-0.1", {"b": 1}, granted_to="pod/me")
    assert followed.runs() == {"b": 1}

    followed.put("h.h-0.0", {"a": 1}, granted_to="pod/me")
    assert followed.runs() == {"a": 1, "b": 1}


def test_a_run_with_an_unknown_workload_is_desired_without_one(followed: Followed) -> None:
    followed.put("h.h-0.0", {"a": 1}, workloads={DIGEST: '{"future": {}}'})

    assert followed.desired["a"] is not None
    assert followed.desired["a"].workload is None


def test_settings_come_from_the_newest_term(followed: Followed) -> None:
    followed.put("h.h-0.0", {}, term=2, settings=Settings(lease_seconds=9))
    followed.put("h.h-0.1", {}, term=1, settings=Settings(lease_seconds=7))

    assert [settings.lease_seconds for settings in followed.settings] == [9]


def test_a_status_of_a_slice_that_is_not_rewritten_yet_brings_no_old_settings_back(followed: Followed) -> None:
    old, new = Settings(lease_seconds=9), Settings(lease_seconds=7)
    followed.put("h.h-0.0", {}, settings=old)
    followed.put("h.h-0.1", {}, settings=old)
    followed.put("h.h-0.0", {}, settings=new)
    followed.put("h.h-0.1", {}, settings=old, generation=2)

    assert [settings.lease_seconds for settings in followed.settings] == [9, 7]


def test_the_settings_of_a_deleted_slice_go_with_it(followed: Followed) -> None:
    followed.put("h.h-0.0", {}, settings=Settings(lease_seconds=7))
    followed.put("h.h-0.1", {}, settings=Settings(lease_seconds=9, partitioned=True))
    followed.delete("h.h-0.1")

    assert followed.slices.settings == Settings(lease_seconds=7)


def test_the_settings_of_a_term_outlive_the_slices_that_brought_them(followed: Followed) -> None:
    followed.put("h.h-0.0", {}, term=1, settings=Settings(lease_seconds=7))
    followed.put("h.h-0.1", {}, term=2, settings=Settings(lease_seconds=9))
    followed.delete("h.h-0.1")

    assert followed.slices.settings.lease_seconds == 9


def test_changes_are_applied_before_the_slice_is_reported(followed: Followed) -> None:
    order: list[str] = []
    followed.slices.desired_changed.listen(order.extend)
    followed.slices.own_changed.listen(lambda _, name: order.append(name))

    followed.put("h.h-0.0", {"a": 1})

    assert order == ["a", "h.h-0.0"]


def test_the_hub_counts_as_partitioned_while_any_own_slice_says_so(followed: Followed) -> None:
    lost, whole = Settings(partitioned=True), Settings()
    followed.put("h.h-0.0", {}, settings=whole)
    followed.put("h.h-0.1", {}, settings=lost)
    followed.put("h.h-1.0", {}, settings=lost, member="h-1")
    assert followed.slices.settings.partitioned

    followed.put("h.h-0.0", {"a": 1}, settings=whole)
    assert followed.slices.settings.partitioned

    followed.put("h.h-0.1", {}, settings=whole)
    assert not followed.slices.settings.partitioned
    assert [settings.partitioned for settings in followed.settings] == [True, False]


def test_a_partition_ends_with_the_last_slice_that_says_so(followed: Followed) -> None:
    followed.put("h.h-0.0", {}, settings=Settings(partitioned=True))
    followed.put("h.h-0.1", {}, settings=Settings(partitioned=True))
    followed.put("h.h-0.0", {})
    followed.delete("h.h-0.1")
    assert not followed.slices.settings.partitioned

    followed.put("h.h-0.0", {}, settings=Settings(partitioned=True))
    followed.delete("h.h-0.0")
    assert followed.slices.settings.partitioned  # without any slice nothing says that the quorum is back


def test_a_partition_is_known_before_any_run_is_desired(followed: Followed) -> None:
    order: list[str] = []
    followed.slices.desired_changed.listen(order.extend)
    followed.slices.settings_changed.listen(lambda settings: order.append(f"partitioned: {settings.partitioned}"))

    followed.put("h.h-0.0", {"a": 1}, settings=Settings(partitioned=True))

    assert order == ["partitioned: True", "a"]


def test_a_partition_ends_after_the_runs_of_that_slice_are_desired(followed: Followed) -> None:
    """Otherwise a child would start whose entry is gone: it may run elsewhere already."""
    followed.put("h.h-0.0", {"a": 1, "b": 2}, settings=Settings(partitioned=True))
    order: list[str] = []
    followed.slices.desired_changed.listen(order.extend)
    followed.slices.settings_changed.listen(
        lambda settings: order.append(f"partitioned: {settings.partitioned}, {settings.request_seconds} s")
    )

    followed.put("h.h-0.0", {"b": 2}, settings=Settings(request_seconds=9))

    assert order == ["partitioned: True, 9 s", "a", "partitioned: False, 9 s"]
    assert followed.desired["a"] is None
