"""The statuses that the API server refuses, as their hub says them."""

from __future__ import annotations

from a_round import a_round

from builders import make_hub
from processhub.cluster.errors import ConflictError, ForbiddenError, NotFoundError
from processhub.controller.report.refusedstatuses import RefusedStatuses
from processhub.controller.store.hubstate import HubState

HUB = ("ns", "hub")
NO = ForbiddenError(403, "Forbidden", "statuses are kept here")


async def test_the_first_and_the_last_refusal_wake_the_hub_which_names_three() -> None:
    woken: list[object] = []
    refused = RefusedStatuses(woken.append)
    for name in ("d", "b", "c", "a", "a"):
        refused.failed(HUB, f"child {name}", NO)
    assert woken == [HUB]

    steps = a_round(make_hub(), HubState(HUB)).steps
    refused.note(HUB, steps)

    reason, message = steps.trouble() or ("", "")
    assert reason == "Refused"
    assert message == "; ".join(f"the status of child {name} can't be written: {NO}" for name in "abc")

    for name in "abcd":
        refused.ended(HUB, f"child {name}")
    assert woken == [HUB, HUB]
    steps = a_round(make_hub(), HubState(HUB)).steps
    refused.note(HUB, steps)
    assert steps.trouble() is None


async def test_the_refusal_of_an_object_that_is_gone_is_forgotten() -> None:
    woken: list[object] = []
    refused = RefusedStatuses(woken.append)
    for name in ("childset a", "childset b", "child a"):
        refused.failed(HUB, name, NO)

    refused.keep(HUB, "childset", {"childset b"})

    steps = a_round(make_hub(), HubState(HUB)).steps
    refused.note(HUB, steps)
    assert "childset a" not in (steps.trouble() or ("", ""))[1]
    refused.keep(HUB, "childset", ())
    refused.keep(HUB, "child", ())
    assert woken == [HUB, HUB]


def test_what_has_changed_or_is_gone_is_not_refused() -> None:
    woken: list[object] = []
    refused = RefusedStatuses(woken.append)

    refused.failed(HUB, "child a", ConflictError(409, "Conflict", "changed"))
    refused.failed(HUB, "child a", NotFoundError(404, "NotFound", "gone"))
    refused.ended(HUB, "child a")

    assert woken == []
