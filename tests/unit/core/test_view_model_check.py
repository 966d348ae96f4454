"""Views in all states of small hubs: see model/views/hub.py for the steps, model/views/scenarios.py for the hubs."""

from __future__ import annotations

import msgspec
import pytest
from model.explore import Counterexample, explore_hub
from model.views.hub import ViewHub
from model.views.rest import check_views_rest
from model.views.scenarios import VIEW_SCENARIOS, VIEWS_NEEDED

pytestmark = pytest.mark.no_cover  # tens of thousands of rounds: slower still when each line is recorded


@pytest.mark.parametrize("name", VIEW_SCENARIOS)
def test_nothing_that_members_start_by_themselves_runs_twice(name: str) -> None:
    """At most one active owner, epochs only rise, no more children than may be; then a view is open to all."""
    hub = ViewHub(VIEW_SCENARIOS[name])

    states = explore_hub(hub)

    assert check_views_rest(hub, states, returning=True) >= len(states)
    assert check_views_rest(hub, states, returning=False) >= len(states)


@pytest.mark.parametrize("rule", VIEWS_NEEDED)
def test_without_this_rule_of_views_a_promise_is_broken(rule: str) -> None:
    weakened = msgspec.structs.replace(VIEWS_NEEDED[rule], without=frozenset({rule}))

    with pytest.raises(Counterexample, match="=> "):
        explore_hub(ViewHub(weakened))
