"""The client's registry: the answers of look-ups, and that following changes equals reading everything again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from builders import client_of, make_hub, make_slice
from processhub.api.slice import Activation, RegistrySlice
from processhub.client.registry import Registry
from processhub.client.session import Session
from processhub.registry.grammar import NOBODY, Assignment, Report, format_assignment, format_report

HUB, UID = "my-hub", "hub-uid"
WORKLOADS = {"w1": '{"exec":{"command":["sleep","1"]}}', "w2": '{"python":{"target":"m:C"}}'}


def assigned(uid: str = "u1", epoch: int = 1, **more: Any) -> str:
    return format_assignment(Assignment(uid=uid, epoch=epoch, **{"workload": "w1", **more}))


def reported(uid: str = "u1", epoch: int = 1, pid: int = 100, **more: Any) -> str:
    return format_report(Report(uid=uid, epoch=epoch, pid=pid, **{"state": "Running", **more}))


def a_slice(
    entries: Mapping[str, str],
    reports: Mapping[str, str] | None = None,
    *,
    member: str = "my-hub-0",
    index: int = 0,
    hub_uid: str = UID,
) -> RegistrySlice:
    return make_slice(
        entries, reports, hub=HUB, hub_uid=hub_uid, member=member, index=index, workloads=WORKLOADS, namespace="default"
    )


@pytest.fixture
def registry() -> Registry:
    return Registry(HUB, UID)


def test_a_running_child_is_found_with_member_pid_and_spec(registry: Registry) -> None:
    registry.put(
        a_slice({"a": assigned(tags=("eu",), metadata=(("k", "v"),))}, {"a": reported(pid=4711)}, member="my-hub-2")
    )

    spec, processes = registry.lookups["a"]
    assert processes == [("my-hub-2", 4711)]
    assert registry.pids["a"] == 4711
    assert spec["exec"]["command"] == ["sleep", "1"]
    assert (spec.id, spec.hub, spec.tags, spec.metadata) == ("a", HUB, ("eu",), {"k": "v"})
    assert dict(spec) == spec.to_dict()
    assert (spec["tags"], spec.get("nodes", "none")) == (["eu"], "none")
    assert registry.records["a"].alive
    assert not registry.records["a"].locked


@pytest.mark.parametrize("answered", [True, False])
def test_a_suspended_child_is_stopped_on_its_member_and_runs_nowhere(registry: Registry, answered: bool) -> None:
    told = {"a": reported(epoch=2, pid=0, state="Pending")} if answered else {}

    registry.put(a_slice({"a": assigned(epoch=2, wait=True, asleep=True)}, told))

    record = registry.records["a"]
    assert (record.alive, record.running, record.locked, dict(record.processes)) == (False, False, False, {})
    assert [(node.name, node.state, node.asleep) for node in record.nodes] == [("my-hub-0", "Stopped", True)]
    assert list(registry.on_member("my-hub-0")) == []


def test_an_entry_that_the_member_has_not_reported_is_pending_without_a_pid(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned()}))

    assert registry.records["a"].nodes[0].state == "Pending"
    assert registry.lookups["a"][1] == []
    assert "a" not in registry.pids


@pytest.mark.parametrize("answer", [reported(epoch=1), reported(uid="old", epoch=2)])
def test_the_pid_of_another_incarnation_does_not_count_and_locks_the_child(registry: Registry, answer: str) -> None:
    registry.put(a_slice({"a": assigned(uid="u1", epoch=2)}, {"a": answer}))

    assert "a" not in registry.pids
    assert registry.records["a"].locked


def test_a_child_whose_entry_was_removed_is_not_recorded_while_it_ends(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned()}, {"a": reported()}))
    registry.put(a_slice({}, {"a": reported(state="Stopping")}))

    assert "a" not in registry.records
    assert "a" not in registry.lookups
    assert registry.holds("a", "u1")
    assert [(child_id, node.state) for child_id, node in registry.ending()] == [("a", "Stopping")]

    registry.put(a_slice({}, {}))

    assert not registry.holds("a", "u1")


def test_a_moving_child_keeps_the_sources_pid_and_is_locked_until_the_target_runs(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(epoch=1)}, {"a": reported(epoch=1, pid=1)}, member="my-hub-0"))
    registry.put(a_slice({"a": assigned(epoch=2, wait=True)}, member="my-hub-1"))

    record = registry.records["a"]
    assert (record.pid, record.alive, record.running, record.locked) == (1, True, True, True)
    assert [(node.name, node.waiting) for node in record.nodes] == [("my-hub-0", False), ("my-hub-1", True)]

    registry.put(a_slice({}, {}, member="my-hub-0"))
    registry.put(a_slice({"a": assigned(epoch=3)}, {"a": reported(epoch=3, pid=2)}, member="my-hub-1"))

    record = registry.records["a"]
    assert (record.pid, record.locked, list(record.processes)) == (2, False, [("my-hub-1", 2)])


def test_the_active_copy_is_listed_before_passive_ones(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(role="Passive")}, {"a": reported(role="Passive", pid=1)}, member="my-hub-0"))
    registry.put(a_slice({"a": assigned(epoch=2)}, {"a": reported(epoch=2, pid=2)}, member="my-hub-1"))

    assert registry.pids["a"] == 2
    assert registry.records["a"].processes == [("my-hub-1", 2), ("my-hub-0", 1)]


def test_among_active_copies_the_first_that_runs_comes_first(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(epoch=1)}, {"a": reported(epoch=1, state="Failed", pid=0)}, member="my-hub-0"))
    registry.put(a_slice({"a": assigned(epoch=2)}, {"a": reported(epoch=2, pid=7)}, member="my-hub-1"))

    assert registry.pids["a"] == 7


def test_of_two_entries_of_one_member_the_higher_epoch_counts(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(epoch=5, workload="w2")}, {"a": reported(epoch=5, pid=5)}, index=1))
    registry.put(a_slice({"a": assigned(epoch=4)}, {"a": reported(epoch=4, pid=4)}, index=0))

    record = registry.records["a"]
    assert record.pid == 5
    assert record.spec.python is not None
    assert len(record.nodes) == 1


def test_slices_of_an_earlier_hub_of_the_same_name_do_not_count(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned()}, hub_uid="gone"))
    assert not registry.records

    registry.put(a_slice({"a": assigned()}))
    registry.put(a_slice({"a": assigned()}, hub_uid="gone"))
    assert not registry.records


def test_changed_tags_are_found_and_old_ones_are_not(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(tags=("eu", "gold")), "b": assigned(uid="u2", tags=("eu",))}))
    assert sorted(registry.tagged("eu")) == ["a", "b"]

    registry.put(a_slice({"a": assigned(tags=("us",)), "b": assigned(uid="u2", tags=("eu",))}))
    assert sorted(registry.tagged("eu")) == ["b"]
    assert sorted(registry.tagged("us")) == ["a"]
    assert not registry.tagged("gold")


def test_unchanged_entries_keep_their_prepared_values(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(), "b": assigned(uid="u2")}, {"a": reported()}))
    before = registry.records["a"], registry.records["b"].spec

    registry.put(a_slice({"a": assigned(), "b": assigned(uid="u2")}, {"a": reported(), "b": reported(uid="u2")}))

    assert registry.records["a"] is before[0]
    assert registry.records["b"].spec is before[1]


def test_listeners_get_only_the_changed_ids(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned(), "b": assigned(uid="u2")}))
    heard: list[set[str]] = []
    unlisten = registry.listen(heard.append)

    registry.put(a_slice({"a": assigned(), "b": assigned(uid="u2")}, {"a": reported()}))
    registry.put(a_slice({"a": assigned(), "b": assigned(uid="u2")}, {"a": reported()}))
    registry.drop(f"{HUB}.my-hub-0.0")
    unlisten()
    registry.put(a_slice({"c": assigned()}))

    assert heard == [{"a"}, {"a", "b"}]


def test_an_unreadable_entry_is_skipped_and_the_others_stay(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.put(a_slice({"a": "nonsense", "b": assigned(uid="u2")}, {"b": reported(uid="u2")}))

    assert set(registry.records) == {"b"}
    assert "nonsense" in caplog.text


def test_a_child_with_a_workload_of_a_later_format_can_be_found(registry: Registry) -> None:
    item = a_slice({"a": assigned(workload="w9")}, {"a": reported()})
    registry.put(item)

    assert registry.pids["a"] == 100
    assert registry.records["a"].spec.exec is None


def test_the_results_of_lookups_are_immutable(registry: Registry) -> None:
    registry.put(a_slice({"a": assigned()}, {"a": reported()}))
    _, processes = registry.lookups["a"]

    with pytest.raises(TypeError):
        processes[0] = ("x", 1)  # type: ignore[index]
    assert processes == [("my-hub-0", 100)]
    assert processes != [("my-hub-0", 101)]


_ids = st.sampled_from(["a", "b", "c/ä", "d"])
_epochs = st.integers(1, 3)
_entries = st.dictionaries(_ids, st.builds(assigned, epoch=_epochs, workload=st.sampled_from(["w1", "w2"])))
_reports = st.dictionaries(_ids, st.builds(reported, epoch=_epochs, pid=st.integers(0, 3)))
_slices = st.builds(
    a_slice,
    _entries,
    _reports,
    member=st.sampled_from(["my-hub-0", "my-hub-1"]),
    index=st.integers(0, 1),
    hub_uid=st.sampled_from([UID, UID, UID, "gone"]),
)
_steps = st.lists(st.one_of(_slices, st.sampled_from([f"{HUB}.my-hub-{m}.{n}" for m in (0, 1) for n in (0, 1)])))


@given(_steps)
def test_following_changes_equals_reading_everything_again(steps: list[RegistrySlice | str]) -> None:
    followed = Registry(HUB, UID)
    present: dict[str, RegistrySlice] = {}
    for step in steps:
        if isinstance(step, str):
            followed.drop(step)
            present.pop(step, None)
        else:
            followed.put(step)
            present[step.metadata.name] = step

    fresh = Registry(HUB, UID)
    for item in present.values():
        fresh.put(item)

    assert followed.records == fresh.records
    assert followed.pids == fresh.pids
    assert followed.lookups == fresh.lookups
    assert sorted(followed.ending(), key=str) == sorted(fresh.ending(), key=str)


DEMAND = Activation(
    view=7,
    phase="Open",
    entry=format_assignment(Assignment(uid=UID, epoch=0, workload="w1", on_demand=True, tags=("eu",))),
    workload=WORKLOADS["w1"],
)


def by_view(reports: Mapping[str, str], entries: Mapping[str, str] | None = None, **metadata: Any) -> RegistrySlice:
    """Return slice 0 of a member that may start children by itself."""
    return make_slice(
        entries or {}, reports, hub=HUB, hub_uid=UID, member="my-hub-0", activation=DEMAND, workloads=WORKLOADS,
        namespace="default", **metadata,
    )  # fmt: skip


def test_a_child_that_its_member_has_started_by_itself_is_found_like_one_on_record(registry: Registry) -> None:
    registry.put(by_view({"a": reported(UID, 3, view=7)}))

    record = registry.records["a"]
    assert (record.uid, record.alive, record.running, record.locked) == (UID, True, True, False)
    assert (record.on_demand, record.on_record) == (True, False)
    spec, processes = registry.lookups["a"]
    assert (spec["exec"]["command"], spec.tags, processes) == (["sleep", "1"], ("eu",), [("my-hub-0", 100)])
    assert registry.tagged("eu") == ("a",)
    assert list(registry.on_member("my-hub-0")) == ["a"]
    assert list(registry.ending()) == []
    assert registry.activations == {"my-hub-0": DEMAND}

    entries = {"a": assigned(UID, 3, on_demand=True)}
    registry.put(by_view({"a": reported(UID, 3, view=7)}, entries))
    assert (registry.records["a"].on_demand, registry.records["a"].on_record) == (True, True)
    registry.put(by_view({"a": reported(UID, 3, state="Stopping")}))
    assert registry.records == {}
    assert [(child_id, node.state) for child_id, node in registry.ending()] == [("a", "Stopping")]


def test_a_child_of_a_view_that_its_slice_no_longer_has_is_found_without_a_workload(registry: Registry) -> None:
    registry.put(by_view({"a": reported(UID, 3, view=6)}))

    assert registry.lookups["a"][0].to_dict() == {"hub": HUB, "id": "a"}


def test_a_slice_that_is_gone_allows_nothing_and_asks_for_nothing(registry: Registry) -> None:
    item = by_view({})
    registry.put(msgspec.structs.replace(item, status=msgspec.structs.replace(item.status, asks=("b",))))
    assert dict(registry.asks) == {"my-hub-0": ("b",)}

    registry.drop(item.metadata.name)

    assert (registry.activations, registry.asks) == ({}, {})


def test_an_entry_of_nobody_is_no_child(registry: Registry) -> None:
    nobody = assigned(NOBODY, 9, wait=True)
    registry.put(
        by_view({"a": reported(UID, 3), "b": reported(NOBODY, 9, state="Pending")}, {"a": nobody, "b": nobody})
    )

    assert registry.records == {}
    assert [child_id for child_id, _ in registry.ending()] == ["a"]


async def test_a_slice_that_is_deleted_before_its_hub_is_followed_is_not_kept() -> None:
    """Commands that wait read the registry, and follow it then."""
    hub, lists = make_hub(HUB, uid=UID, namespace="default"), [[a_slice({"a": assigned()})], []]

    async def answer(request: web.Request) -> web.Response:
        if "watch" in request.query:
            await asyncio.Event().wait()
        items = [hub] if request.path.endswith("/hubs") else lists.pop(0)
        listed = {"metadata": {"resourceVersion": "9"}, "items": items}
        return web.Response(body=msgspec.json.encode(listed), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/{path:.*}", answer)])
    async with client_of(app) as client:
        session = Session(client, "default", hub)
        await session.read()
        assert session.registry.records.keys() == {"a"}
        await session.follow()
        await session.close()

    assert session.registry.records.keys() == set()
