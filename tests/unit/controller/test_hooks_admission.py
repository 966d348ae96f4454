"""Stops, starts and moves that wait for the verdicts of hooks."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
import virtualtime
from planned_hub import child
from waiting import until

from builders import make_child, make_client, make_hub, make_member, make_observation
from processhub.api.childset import ChildSet
from processhub.api.hooks import Hook, HookEvent
from processhub.api.hub import Hub, HubSpec
from processhub.api.reasons import Reason
from processhub.controller.hooks import moves
from processhub.controller.hooks.asking import Asker, Unanswered
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.hubhooks import Hooks
from processhub.controller.hooks.starts import StartAdmission
from processhub.controller.hooks.stops import StopAdmission
from processhub.controller.hooks.verdicts import HookVerdict
from processhub.controller.hooks.webhook import HookError
from processhub.controller.observe.admission import Admitted, admit
from processhub.controller.observe.observation import Observation
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.store.childsets import SeenSet, known_set
from processhub.controller.store.hubstate import HubKey, HubState
from processhub.core.model.plan import Plan, Unplaced
from processhub.core.model.snapshot import OnRecord
from processhub.registry.grammar import Assignment


def hub(*events: str, **receiver: Any) -> Hub:
    receiver = receiver or {"webhook": {"url": "http://127.0.0.1:9"}}
    hooks = [{"name": f"hook-{event}", "event": event, **receiver} for event in events]
    return make_hub(spec={"hooks": hooks})


@pytest.fixture
def recorder() -> EventRecorder:
    return EventRecorder(make_client(), "test")


def observed(hub: Hub, uid: str = "", *ids: str) -> Observation:
    """Children of this uid run on hub-0 and are not desired any more."""
    entry = Assignment(uid=uid, epoch=1, workload="w")
    record = {child_id: (OnRecord("hub-0", entry),) for child_id in ids}
    return make_observation(hub.spec, {"hub-0": make_member("hub-0")}, record=record)


class Hanging:
    """A hook that hangs for its time limit of 5 s, until it is mended."""

    def __init__(self) -> None:
        self.hangs, self.asked = True, 0

    async def __call__(self, hook: Hook, event: CloudEventText) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.sleep(5.0)
            raise HookError("no answer within 5 s")


@pytest.mark.parametrize(("event", "policy"), [("PreChildStop", "Fail"), ("PreChildStart", "Ignore")])
def test_a_hook_that_hangs_holds_few_of_many_children_up(event: str, policy: str) -> None:
    async def main() -> None:
        call, recorder = Hanging(), EventRecorder(make_client(), "test")
        asker = Asker(hub(event, webhook={"url": "http://h", "failurePolicy": policy}), call, recorder)
        loop = asyncio.get_running_loop()
        began = loop.time()

        def questions(count: int) -> list[asyncio.Task[HookVerdict]]:
            return [asyncio.create_task(asker.ask(HookEvent(event), f"c-{number}", {})) for number in range(count)]

        await asyncio.gather(*questions(5000), return_exceptions=True)
        assert loop.time() - began < 30.0, "a time limit for each 32 of them would be 780 s"

        call.hangs, before = False, call.asked
        await asyncio.sleep(6.0)
        (probe,) = await asyncio.gather(*questions(1))
        assert probe == HookVerdict()
        await asyncio.gather(*questions(100))
        assert call.asked == before + 101, "it is asked each time again"

    virtualtime.run(main())


def test_a_start_that_requires_the_hooks_answer_waits_for_it() -> None:
    async def main() -> None:
        call, recorder = Hanging(), EventRecorder(make_client(), "test")
        asker = Asker(hub("PreChildStart", webhook={"url": "http://h", "failurePolicy": "Fail"}), call, recorder)
        for number in range(5):
            with pytest.raises(Unanswered):
                await asker.ask(HookEvent.PRE_CHILD_START, f"c-{number}", {})
        call.hangs = False
        assert await asker.ask(HookEvent.PRE_CHILD_START, "last", {}) == HookVerdict()

    virtualtime.run(main())


async def test_the_hook_is_called_for_each_child_of_a_set_that_stops(recorder: EventRecorder) -> None:
    """All of them have the set's uid."""
    asked: list[str] = []

    async def call(hook: Hook, event: CloudEventText) -> None:
        asked.append(event.content()["subject"])

    stopping = hub("PreChildStop")
    admission = StopAdmission(Asker(stopping, call, recorder), lambda: None)
    plan = Plan(entries={"hub-0": {"web-3": None, "web-4": None}}, unplaced={}, next_epoch=2)
    now = observed(stopping, "set-uid", "web-3", "web-4")

    held = admission.hold(plan, now)
    assert held.entries == {}, "both wait"
    await until(lambda: sorted(asked) == ["web-3", "web-4"], "the hook was asked about both")
    await until(lambda: admission.hold(plan, now).entries == plan.entries, "both may stop")
    assert len(asked) == 2


async def test_a_child_is_suspended_after_its_hooks_verdict_and_no_hook_is_called_once_it_is(
    recorder: EventRecorder,
) -> None:
    asked: list[str] = []

    async def call(hook: Hook, event: CloudEventText) -> None:
        asked.append(event.content()["subject"])

    stopping = hub("PreChildStop")
    admission = StopAdmission(Asker(stopping, call, recorder), lambda: None)
    before = observed(stopping, "u", "a")
    suspended = child("a", "u", suspended=True)
    asleep = Assignment(uid="u", epoch=2, workload="w", wait=True, asleep=True)
    now = msgspec.structs.replace(before, snapshot=msgspec.structs.replace(before.snapshot, children={"a": suspended}))
    plan = Plan(entries={"hub-0": {"a": asleep}}, unplaced={}, next_epoch=3)

    assert admission.hold(plan, now).entries == {}
    await until(lambda: admission.hold(plan, now).entries == plan.entries, "it may stop")
    assert asked == ["a"]
    record = {"a": (OnRecord("hub-0", asleep),)}
    deleted = msgspec.structs.replace(before, snapshot=msgspec.structs.replace(before.snapshot, record=record))
    plan = Plan(entries={"hub-0": {"a": None}}, unplaced={}, next_epoch=3)
    assert admission.hold(plan, deleted).entries == plan.entries


@pytest.mark.parametrize("allow", [True, False])
async def test_a_resumed_child_stays_suspended_until_its_hook_allows_the_start(
    recorder: EventRecorder, allow: bool
) -> None:
    async def call(hook: Hook, event: CloudEventText) -> dict[str, Any]:
        return {"allow": allow, "reason": "not today"}

    asking = hub("PreChildStart")
    state = HubState(asking.metadata.key)
    state.put_child(make_child("a", {"exec": {"command": ["x"]}}))
    known = state.children["a"]
    asleep = Assignment(uid="u", epoch=2, workload=known.wanted.workload, wait=True, asleep=True)
    record = {"a": (OnRecord("hub-0", asleep),)}
    admission = StartAdmission(Asker(asking, call, recorder), state, lambda: None)

    def look() -> Admitted:
        admission.begin_round(asking.spec.hooks)
        return admit(admission, {"a": known.wanted}, {"a": known}, {}, record, asking)

    first = look()
    assert first.wanted["a"].suspended
    assert first.held["a"].reason is Reason.WAITING
    if allow:
        await until(lambda: not look().wanted["a"].suspended, "it may start")
    else:
        await until(lambda: bool(look().refusals), "it may not")
        assert look().refusals["a"].reason is Reason.HOOK_DENIED
        assert look().wanted["a"].suspended
    admission.close()


async def test_a_denied_edit_of_a_sets_template_is_reported_while_its_children_run_on(recorder: EventRecorder) -> None:
    async def call(hook: Hook, event: CloudEventText) -> dict[str, Any]:
        return {"allow": False, "reason": "not today"}

    asking = hub("PreChildStart")
    spec = {"hub": "hub", "replicas": 1, "template": {"exec": {"command": ["new"]}}}
    item = msgspec.convert({"metadata": {"name": "web", "uid": "uid-web"}, "spec": spec}, ChildSet)
    seen = SeenSet(known_set(item, None))
    record = {"web-0": (OnRecord("hub-0", Assignment(uid="uid-web", epoch=2, workload="former")),)}
    admission = StartAdmission(Asker(asking, call, recorder), HubState(asking.metadata.key), lambda: None)

    def look() -> Admitted:
        admission.begin_round(asking.spec.hooks)
        return admit(admission, seen.known.wanted, {}, {"uid-web": seen}, record, asking)

    assert look().held == {}, "it runs on while the hook is asked"
    await until(lambda: bool(look().held), "the hook has denied it")
    assert look().held["web-0"] == Unplaced(Reason.HOOK_DENIED, "hook hook-PreChildStart: not today")
    assert look().wanted["web-0"].workload == "former"
    admission.close()


@pytest.mark.parametrize("answer", [{"args": {"x": object()}}, {"env": {"X": "\ud800"}}, {"args": {"x": {1j: 1}}}])
async def test_a_response_that_is_no_json_counts_as_no_verdict(recorder: EventRecorder, answer: Any) -> None:
    """An exception would end the call unnoticed: its child, or all moves, would wait for ever."""

    async def call(hook: Hook, event: CloudEventText) -> Any:
        return answer

    fail = hub("PreChildStart", webhook={"url": "http://127.0.0.1:9", "failurePolicy": "Fail"})
    ignore = hub("PreChildStart", webhook={"url": "http://127.0.0.1:9", "failurePolicy": "Ignore"})

    with pytest.raises(Unanswered, match="hook hook-PreChildStart gave no answer: its answer can't be read"):
        await Asker(fail, call, recorder).ask(HookEvent.PRE_CHILD_START, "a", {})
    assert await Asker(ignore, call, recorder).ask(HookEvent.PRE_CHILD_START, "a", {}) == HookVerdict()


async def test_hooks_are_called_again_for_moves_that_they_deferred_whatever_the_outcome(
    recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "AGAIN_SECONDS", 0.01)
    troubles: list[Exception] = [RuntimeError("no answer that anybody thought of")]

    async def call(hook: Hook, event: CloudEventText) -> None:
        if troubles:
            raise troubles.pop()

    asking = hub("PreRedistribution", webhook={"url": "http://127.0.0.1:9", "failurePolicy": "Fail"})
    admission = moves.MoveAdmission(Asker(asking, call, recorder), lambda events: None, lambda: None)
    admission.follow(Plan(entries={}, unplaced={}, next_epoch=2, pending_moves=1), ())

    await until(lambda: admission.open, "the second answer")


async def test_the_permission_to_move_ends_with_the_hook_that_gave_it(recorder: EventRecorder) -> None:
    """A hook that is added later is called before the next move."""
    asking, silent = hub("PreRedistribution"), hub("PreChildStart")
    hooks = Hooks(recorder, Agreeing(), 1, "test", (), lambda key: None)
    state = HubState(asking.metadata.key)
    pending = Plan(entries={}, unplaced={}, next_epoch=2, pending_moves=1)

    def look(hub: Hub, plan: Plan) -> int:
        """Return how many moves may start in a round of this hub."""
        hooks.admission(hub, state)
        now = observed(hub)
        snapshot = msgspec.structs.replace(now.snapshot, move_budget=5)
        budget = hooks.before_plan(hub, msgspec.structs.replace(now, snapshot=snapshot)).snapshot.move_budget
        hooks.before_execution(hub, now, plan)
        return budget

    assert look(asking, pending) == 0
    await until(lambda: look(asking, pending), "the hook's leave")
    assert look(silent, pending) == 5
    assert look(silent, Plan(entries={}, unplaced={}, next_epoch=2)) == 5
    assert look(asking, pending) == 0
    await hooks.close()


class Agreeing:
    """Receivers that allow everything."""

    def refusal(self, spec: HubSpec) -> None:
        return None

    async def call(self, hub: HubKey, hook: Hook, event: CloudEventText) -> None: ...

    async def close(self) -> None: ...
