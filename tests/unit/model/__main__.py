"""Explores all scenarios, also the deep ones, and prints their numbers of states: ``python -m model`` in tests/unit."""

from __future__ import annotations

import sys
import time

import msgspec

from .explore import Counterexample, Steps, check_rest, explore, explore_hub
from .hub import ModelHub
from .scenarios import DEEP, NEEDED_DEEP, SCENARIOS
from .views.hub import ViewHub
from .views.rest import check_views_rest
from .views.scenarios import VIEW_DEEP, VIEW_SCENARIOS, VIEWS_NEEDED_DEEP


def main() -> None:
    total = 0
    for name, rules in (SCENARIOS | DEEP).items():
        began = time.monotonic()
        seen = explore(rules)
        for returning in (True, False):
            check_rest(rules, seen, returning=returning)
        total += len(seen)
        sys.stdout.write(f"{len(seen):9,} states  {time.monotonic() - began:6.1f} s  {name}\n")
        sys.stdout.flush()
    for name, views in (VIEW_SCENARIOS | VIEW_DEEP).items():
        began = time.monotonic()
        hub = ViewHub(views)
        found = explore_hub(hub)
        for returning in (True, False):
            check_views_rest(hub, found, returning=returning)
        total += len(found)
        sys.stdout.write(f"{len(found):9,} states  {time.monotonic() - began:6.1f} s  views: {name}\n")
        sys.stdout.flush()
    for rule, rules in NEEDED_DEEP.items():
        _expect_broken(rule, ModelHub(msgspec.structs.replace(rules, without=frozenset({rule}))))
    for rule, views in VIEWS_NEEDED_DEEP.items():
        _expect_broken(rule, ViewHub(msgspec.structs.replace(views, without=frozenset({rule}))))
    sys.stdout.write(f"{total:9,} states in all\n")


def _expect_broken(rule: str, hub: Steps) -> None:
    try:
        explore_hub(hub)
    except Counterexample as found:
        sys.stdout.write(f"without {rule!r}:\n{found}\n")
    else:
        sys.exit(f"nothing breaks without {rule!r}")


if __name__ == "__main__":
    main()
