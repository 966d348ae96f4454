"""Explores all scenarios, also the deep ones, and prints their numbers of states: ``python -m model`` in tests/unit."""

from __future__ import annotations

import sys
import time

import msgspec

from .explore import Counterexample, check_rest, explore
from .scenarios import DEEP, NEEDED_DEEP, SCENARIOS


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
    for rule, rules in NEEDED_DEEP.items():
        try:
            explore(msgspec.structs.replace(rules, without=frozenset({rule})))
        except Counterexample as found:
            sys.stdout.write(f"without {rule!r}:\n{found}\n")
        else:
            sys.exit(f"nothing breaks without {rule!r}")
    sys.stdout.write(f"{total:9,} states in all\n")


if __name__ == "__main__":
    main()
