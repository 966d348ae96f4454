"""The counterparts of ProcessHub's start options: arguments of the call or fields of the Child."""

from __future__ import annotations

import inspect

import pytest
from livehub import WAIT, Live, places, sleepers, started
from sharedhubs import NEVER_UP

from processhub import Hub


@pytest.mark.row("Start options: wait, timeout")
async def test_a_start_waits_if_asked_to_and_for_so_long(plain: Hub) -> None:
    assert inspect.signature(Hub.start_children).parameters["timeout"].default == 10

    at_once = await plain.start_children(sleepers("unwaited"))
    waited = await plain.start_children(sleepers("waited"), wait=True, timeout=WAIT)
    too_short = await plain.start_children([{"id": "late", "python": NEVER_UP}], wait=True, timeout=1)

    assert at_once.started == {"unwaited": ()}
    assert waited.started == {"waited": plain.process_list()["waited"]}
    assert too_short.errors["late"].reason == "Timeout"
    await plain.stop_children(["late"])


@pytest.mark.row("Start options: check_existing")
async def test_a_child_that_exists_is_an_error_or_accepted(plain: Hub) -> None:
    await started(plain, sleepers("existing"))
    pid = plain.get_pid("existing")

    strict = await plain.start_children(sleepers("existing"))
    lax = await plain.start_children(sleepers("existing"), wait=True, timeout=WAIT, check_existing=False)

    assert strict.errors["existing"].reason == "AlreadyStarted"
    assert [started_as for _, started_as in lax.started["existing"]] == [pid]


@pytest.mark.row("Start options: on_failure")
async def test_a_start_with_one_failure_continues_or_is_rolled_back(product: Live, plain: Hub) -> None:
    def some(prefix: str) -> list[dict[str, object]]:
        return [*sleepers(f"{prefix}-good"), {"id": f"{prefix}-bad", "exec": {"command": ["/no/such/program"]}}]

    on = await plain.start_children(some("on"), wait=True, timeout=WAIT, on_failure="continue")
    back = await plain.start_children(some("back"), wait=True, timeout=WAIT, on_failure="rollback")

    assert (on.started.keys(), on.errors.keys()) == ({"on-good"}, {"on-bad"})
    assert (back.started.keys(), back.errors.keys()) == (set(), {"back-bad"})
    assert back.rollback is not None
    assert set(back.rollback.removed) == {"back-good", "back-bad"}
    assert not {"back-good", "back-bad"} & {*await product.children("plain"), *plain.registry_dump()}
    await plain.stop_children(["on-bad"])


@pytest.mark.row("Start options: metadata, child_metadata")
async def test_metadata_of_the_call_apply_to_all_children_and_a_childs_own_win(plain: Hub) -> None:
    children = [*sleepers("meta-a"), *sleepers("meta-b", metadata={"tier": "own"})]

    await started(plain, children, metadata={"tier": "all", "batch": "meta"})

    assert set(plain.metadata_query(batch="meta")) == {"meta-a", "meta-b"}
    assert set(plain.metadata_query(tier="all")) == {"meta-a"}
    assert set(plain.metadata_query(tier="own")) == {"meta-b"}


@pytest.mark.row("Start options: tags")
async def test_tags_of_the_call_are_added_to_a_childs_own(plain: Hub) -> None:
    await started(plain, [*sleepers("tag-a"), *sleepers("tag-b", tags=["own-tag"])], tags=["all-tag"])

    assert set(plain.tag_query("all-tag")) == {"tag-a", "tag-b"}
    assert set(plain.tag_query("own-tag")) == {"tag-b"}


@pytest.mark.row("Start options: child_mapping")
async def test_guided_children_run_on_the_members_of_the_call_or_their_spec(guided: Hub) -> None:
    children = [*sleepers("map-a", "map-b"), *sleepers("map-c", nodes=["guided-1"])]

    await started(guided, children, child_mapping={"map-a": ["guided-1"], "map-b": ["guided-0"]})

    mapped = {child_id: places(guided)[child_id] for child_id in ("map-a", "map-b", "map-c")}
    assert mapped == {"map-a": "guided-1", "map-b": "guided-0", "map-c": "guided-1"}
