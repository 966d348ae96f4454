"""Planner and protocol in all states of small hubs: model/hub.py has the steps, model/scenarios.py the hubs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from model.explore import Counterexample, check_rest, explore
from model.rules import Rules
from model.scenarios import NEEDED, SCENARIOS

pytestmark = pytest.mark.no_cover  # a million plans, which take three times as long when each line is recorded


@pytest.fixture(scope="module")
def counted(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Print the numbers of explored states at the end."""
    counts: list[int] = []
    yield counts
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\nmodel check: {sum(counts):,} states of {len(counts)} hubs")


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_promise_is_broken_and_every_state_comes_to_rest(name: str, counted: list[int]) -> None:
    """At most one active owner, no wrong proof, epochs only rise; then each wanted child runs exactly once."""
    rules = SCENARIOS[name]

    states = explore(rules)

    counted.append(len(states))
    assert check_rest(rules, states, returning=True) >= len(states)
    assert check_rest(rules, states, returning=False) >= len(states)


@pytest.mark.parametrize("rule", NEEDED)
def test_leaving_this_rule_out_breaks_a_promise(rule: str) -> None:
    """The model is sharp enough: with one rule of the protocol left out it finds the sequence that needs the rule."""
    weakened = msgspec.structs.replace(NEEDED[rule], without=frozenset({rule}))

    with pytest.raises(Counterexample, match="=> "):
        explore(weakened)


def test_the_order_of_faults_does_not_change_the_reached_states() -> None:
    one = explore(Rules(trouble={"stop": 1, "delete": 1}))
    other = explore(Rules(trouble={"delete": 1, "stop": 1}))

    assert one.keys() == other.keys()
    assert len(one) > 100
