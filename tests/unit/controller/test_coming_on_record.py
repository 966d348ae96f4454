"""What comes on record without haste: children that members have started by themselves, and steps of a handover."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
import virtualtime
from memoryapi import Json
from onethread import Cluster, running_hub
from prometheus_client import REGISTRY

from builders import make_slice
from processhub.api.naming import ANNOTATION_JOINING
from processhub.api.slice import Activation, RegistrySlice
from processhub.controller.store.slicechanges import only_comes_on_record, only_hands_over
from processhub.controller.store.slices import Slices
from processhub.registry.grammar import Assignment, Report

SECONDS, EACH, WITHIN = 10.0, 0.05, 2.0  # of the stream of new names, between two of them, until one is on record
ENTRY = Assignment(uid="h", epoch=5, workload="w", on_demand=True)
RUN = Report(uid="h", epoch=5, state="Running", pid=7, started_at="2040-01-01T00:00:00Z", reason="Started")
BY_VIEW = msgspec.structs.replace(RUN, view=3)
OPEN = Activation(view=3, phase="Open", holder="pod/1", first_epoch=5, last_epoch=9)
DECLARED = Assignment(uid="c", epoch=4, workload="w")


def plans() -> float:
    return REGISTRY.get_sample_value("processhub_plan_seconds_count") or 0.0


def slices_of(cluster: Cluster) -> list[Json]:
    return [item for key, item in cluster.api.objects.items() if key.plural == "registryslices"]


def on_record(cluster: Cluster) -> set[str]:
    return {child for item in slices_of(cluster) for child in item["spec"]["entries"]}


def test_a_stream_of_new_names_comes_on_record_in_few_rounds_and_soon(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_hub(tmp_path, onDemand={"exec": {"command": ["x"]}}) as cluster:

            def is_open() -> bool:
                orders = [item["spec"].get("activation") for item in slices_of(cluster)]
                return [order["phase"] for order in orders if order] == ["Open"] * 3

            await cluster.until(is_open, "a view is open")
            await asyncio.sleep(20)  # Nothing is to be done any more.
            started: dict[str, float] = {}
            loop, before = asyncio.get_running_loop(), plans()
            end = loop.time() + SECONDS
            while loop.time() < end:
                name = f"cart-{len(started)}"
                assert cluster.ask(name)
                started[name] = loop.time()
                late = {name for name, at in started.items() if loop.time() - at > WITHIN} - on_record(cluster)
                assert not late
                await asyncio.sleep(EACH)

            assert plans() - before <= 2.5 * SECONDS, "each change had a round of its own"
            await cluster.until(lambda: on_record(cluster) == started.keys(), "all is on record")

    virtualtime.run(main())


def a_slice(number: int, entries: dict[str, Assignment], reports: dict[str, Report], **fields: Any) -> RegistrySlice:
    return make_slice(entries, reports, index=number, holder="pod/1", **{"observed_generation": 1, **fields})


def follows(old: RegistrySlice | None, new: RegistrySlice, *, leaving: bool = False) -> bool:
    """Whether the store waits with the round of this change; ``leaving``: while the end of another child is awaited."""
    slices = Slices()
    if old is not None:
        slices.put(old)
    if leaving:
        slices.put(other := make_slice(member="hub-1"))
        slices[other.metadata.name].unproven["gone"] = 1
    return only_comes_on_record(old, new, slices, slices.put(new))


FIRST = a_slice(0, {}, {}, activation=OPEN)
EMPTY = a_slice(1, {}, {}, generation=1)
WRITTEN = a_slice(1, {"a": ENTRY}, {}, generation=2)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FIRST, a_slice(0, {}, {"a": BY_VIEW}, activation=OPEN)),
        (EMPTY, WRITTEN),
        (WRITTEN, a_slice(1, {"a": ENTRY}, {"a": RUN}, generation=2, observed_generation=2)),
        (a_slice(0, {}, {"a": BY_VIEW}, activation=OPEN), FIRST),
    ],
    ids=["it is reported", "its entry is written", "its member reports it by that", "and not by itself any more"],
)
def test_nothing_waits_for_a_child_that_runs_already(old: RegistrySlice, new: RegistrySlice) -> None:
    assert follows(old, new)
    assert not follows(old, new, leaving=True), "what waits for the end of another child waits for this round too"


FAILED = msgspec.structs.replace(BY_VIEW, state="Failed")
WAITING = msgspec.structs.replace(ENTRY, wait=True)
CLOSING = msgspec.structs.replace(OPEN, phase="Closing")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FIRST, a_slice(0, {}, {"a": FAILED}, activation=OPEN)),
        (FIRST, a_slice(0, {}, {"a": BY_VIEW}, activation=CLOSING)),
        (FIRST, a_slice(0, {}, {"a": BY_VIEW}, activation=OPEN, observed_generation=2)),
        (EMPTY, a_slice(1, {"a": DECLARED}, {"a": RUN}, generation=2)),
        (EMPTY, a_slice(1, {"a": WAITING}, {"a": RUN}, generation=2)),
        (WRITTEN, a_slice(1, {}, {}, generation=3)),
        (a_slice(1, {"a": ENTRY}, {"a": RUN}), a_slice(1, {"a": ENTRY}, {})),
    ],
    ids=["failed", "view closes", "view acknowledged", "of a Child", "waits", "leaves the record", "has ended"],
)
def test_any_other_change_has_its_round_at_once(old: RegistrySlice, new: RegistrySlice) -> None:
    assert not follows(old, new)


SOURCE = Assignment(uid="c", epoch=4, workload="w")
ORDERED = msgspec.structs.replace(SOURCE, to="hub-1:9")
TARGET = Assignment(uid="c", epoch=9, workload="w", wait=True)
UP = Report(uid="c", epoch=4, state="Running", pid=7)
GIVEN = Report(uid="c", epoch=4, state="Stopping", gave="9:sum")
KEPT = msgspec.structs.replace(GIVEN, gave="", kept="9:refused")
PENDING = Report(uid="c", epoch=9, state="Pending")
GOT = msgspec.structs.replace(PENDING, got="sum")
COMMITTED = msgspec.structs.replace(TARGET, epoch=10, wait=False, state="sum")
STARTS = msgspec.structs.replace(PENDING, epoch=10, state="Starting")
TAKEN, FAILS = (msgspec.structs.replace(STARTS, state=state) for state in ("Running", "Failed"))
JOINS, OTHERS = {ANNOTATION_JOINING: "true"}, {"note": "x"}
LOST = msgspec.structs.replace(PENDING, epoch=10, kept="10:lost")


def moves(entry: Assignment | None, report: Report | None, *, there: bool = False, **fields: Any) -> RegistrySlice:
    """The slice of the source, or of the target, with what it says of a child."""
    entries, reports = {"a": entry} if entry else {}, {"a": report} if report else {}
    return make_slice(entries, reports, member="hub-1" if there else "hub-0", **{"holder": "pod/1", **fields})


@pytest.mark.parametrize(
    ("old", "new", "other", "waits"),
    [
        (moves(None, None, there=True), moves(TARGET, None, there=True), moves(SOURCE, UP), True),
        (moves(SOURCE, UP), moves(ORDERED, UP, generation=2), moves(TARGET, None, there=True), True),
        (moves(TARGET, None, there=True), moves(TARGET, PENDING, there=True), moves(ORDERED, UP), True),
        (moves(TARGET, PENDING, there=True), moves(TARGET, GOT, there=True), moves(ORDERED, UP), True),
        (moves(ORDERED, UP), moves(ORDERED, GIVEN), moves(TARGET, PENDING, there=True), True),
        (moves(ORDERED, UP), moves(ORDERED, GIVEN), moves(TARGET, GOT, there=True), False),
        (moves(TARGET, PENDING, there=True), moves(TARGET, GOT, there=True), moves(ORDERED, GIVEN), False),
        (moves(ORDERED, UP), moves(ORDERED, KEPT), moves(TARGET, PENDING, there=True), False),
        (moves(ORDERED, UP), moves(ORDERED, FAILED), moves(TARGET, PENDING, there=True), True),
        (moves(SOURCE, UP), moves(SOURCE, None), moves(TARGET, PENDING, there=True), False),
        (moves(TARGET, PENDING, there=True), moves(None, None, there=True), moves(ORDERED, UP), False),
        (moves(TARGET, GOT, there=True), moves(COMMITTED, GOT, there=True), moves(ORDERED, GIVEN), True),
        (moves(COMMITTED, GOT, there=True), moves(COMMITTED, STARTS, there=True), moves(ORDERED, GIVEN), True),
        (moves(COMMITTED, GOT, there=True), moves(COMMITTED, TAKEN, there=True), moves(ORDERED, GIVEN), False),
        (moves(COMMITTED, GOT, there=True), moves(COMMITTED, FAILS, there=True), moves(ORDERED, GIVEN), False),
        (moves(COMMITTED, GOT, there=True), moves(COMMITTED, LOST, there=True), moves(ORDERED, GIVEN), False),
        (moves(SOURCE, UP), moves(SOURCE, UP, annotations=JOINS), moves(TARGET, PENDING, there=True), True),
        (moves(SOURCE, UP), moves(SOURCE, UP, annotations=OTHERS), moves(TARGET, PENDING, there=True), False),
        (moves(SOURCE, UP), moves(SOURCE, UP, observed_generation=2), moves(TARGET, PENDING, there=True), False),
        (moves(ORDERED, UP), moves(ORDERED, UP, holder="pod/2"), moves(TARGET, PENDING, there=True), False),
    ],
    ids=[
        *("waits", "is ordered", "is acknowledged", "has arrived", "was sent", "was sent and has arrived"),
        *("has arrived and was sent", "stays", "fails meanwhile", "ends", "waits no more"),
        *("may start", "starts", "is up", "does not come up", "has lost the state"),
        *("its member joins", "its slice is annotated", "is acknowledged without it", "another holder"),
    ],
)
def test_of_the_steps_of_a_handover_the_last_has_its_round_at_once(
    old: RegistrySlice, new: RegistrySlice, other: RegistrySlice, waits: bool
) -> None:
    slices = Slices()
    slices.put(other)
    slices.put(old)
    changed = slices.put(new)

    assert only_hands_over(old, new, slices, changed) is waits
