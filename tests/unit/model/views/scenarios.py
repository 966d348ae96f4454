"""What is checked of views: small hubs with little trouble, in all its orders; what breaks without each rule."""

from __future__ import annotations

from .rules import ViewRules

# Each in a second or so: for every test run. Together about 16,000 states.
VIEW_SCENARIOS = {
    "nothing happens": ViewRules(),
    "a member leaves the view": ViewRules(trouble={"turn": 1}),
    "a member joins the view": ViewRules(later=True, trouble={"turn": 1}),
    "crash": ViewRules(trouble={"die": 1}),
    "cut off": ViewRules(trouble={"cut": 1}),
    "leader deposed": ViewRules(trouble={"depose": 1}),
    "idle": ViewRules(trouble={"idle": 2}),
    "moved": ViewRules(trouble={"move": 1}),
    "declared and deleted": ViewRules(trouble={"declare": 1, "delete": 1}),
    "joins, write not answered": ViewRules(later=True, trouble={"turn": 1, "unanswered": 1}),
    "two ids, one may run": ViewRules(ids=("a", "d"), most=1),
}

# Minutes together: ``python -m model`` in tests/unit.
VIEW_DEEP = {
    "declared, leader deposed": ViewRules(trouble={"depose": 1, "declare": 1}),
    "declared, write not answered": ViewRules(trouble={"unanswered": 1, "declare": 1}),
    "leaves, own slices read first": ViewRules(trouble={"turn": 1, "ahead": 1}),
    "joins, crash": ViewRules(later=True, trouble={"turn": 1, "die": 1}),
    "joins, cut off": ViewRules(later=True, trouble={"turn": 1, "cut": 1}),
    "leaves, leader deposed": ViewRules(trouble={"turn": 1, "depose": 1}),
    "leaves, idle, leader deposed": ViewRules(trouble={"turn": 1, "idle": 1, "depose": 1}),
    "moved, idle": ViewRules(trouble={"move": 1, "idle": 1}),
    "moved, leaves": ViewRules(trouble={"move": 1, "turn": 1}),
    "moved, crash": ViewRules(trouble={"move": 1, "die": 1}),
    "moved, cut off": ViewRules(trouble={"move": 1, "cut": 1}),
    "moved, leader deposed": ViewRules(trouble={"move": 1, "depose": 1}),
    "moved, write not answered": ViewRules(trouble={"move": 1, "unanswered": 1}),
    "moved, own slices read first": ViewRules(trouble={"move": 1, "ahead": 1}),
    "two ids, one may run, moved, leaves": ViewRules(ids=("d", "h"), most=1, trouble={"move": 1, "turn": 1}),
    "two ids, one may run, moved": ViewRules(ids=("d", "h"), most=1, trouble={"move": 1}),
    "crash, idle": ViewRules(trouble={"die": 1, "idle": 1}),
    "cut off, idle": ViewRules(trouble={"cut": 1, "idle": 1}),
    "cut off, declared": ViewRules(trouble={"cut": 1, "declare": 1}),
    "leaves, idle": ViewRules(trouble={"turn": 1, "idle": 1}),
    "leaves, declared and deleted": ViewRules(trouble={"turn": 1, "declare": 1, "delete": 1}),
    "two ids, one may run, declared": ViewRules(ids=("a", "d"), most=1, trouble={"declare": 1}),
    "two ids, one may run, idle": ViewRules(ids=("a", "d"), most=1, trouble={"idle": 1, "turn": 1}),
}

# Each rule left out, in a hub that is too small to do without it.
VIEWS_NEEDED = {
    "number rises": ViewRules(trouble={"cut": 1}),
    "Lease held": ViewRules(trouble={"cut": 1}),
    "open": ViewRules(trouble={"turn": 1}),
    "chosen": ViewRules(),
    "on no record": ViewRules(trouble={"turn": 1}),
    "block of its own": ViewRules(trouble={"die": 1}),
    "grant first": ViewRules(trouble={"declare": 1, "delete": 1}),
    "ended with the Lease": ViewRules(trouble={"cut": 1}),
    "lists all": ViewRules(trouble={"turn": 1}),
    "closed by each": ViewRules(trouble={"turn": 1}),
    "closing of the gone": ViewRules(trouble={"cut": 1}),
    "on record before": ViewRules(trouble={"turn": 1}),
    "no unsettled write": ViewRules(later=True, trouble={"turn": 1, "unanswered": 1}),
    "of this view": ViewRules(trouble={"cut": 1}),
    "reported since": ViewRules(trouble={"declare": 1, "delete": 1}),
    "where the view says": ViewRules(trouble={"declare": 1}),
    "waits before it leaves": ViewRules(trouble={"turn": 1, "idle": 1}),
    "confirmed": ViewRules(trouble={"move": 1, "turn": 1}),
    "proven elsewhere": ViewRules(trouble={"declare": 1, "move": 1, "delete": 1}),
    "shares": ViewRules(ids=("a", "d"), most=1),
    "counts what ends": ViewRules(ids=("d", "h"), most=1, trouble={"idle": 2}),
    "no share for a move": ViewRules(ids=("d", "h"), most=1, trouble={"move": 1, "turn": 2}),
    "no move into a share": ViewRules(ids=("d", "h"), most=1, trouble={"move": 1}),
}
VIEWS_NEEDED_DEEP = {
    "registry as new": ViewRules(trouble={"turn": 1, "ahead": 1}),
    "reported as it closed": ViewRules(trouble={"cut": 1, "declare": 1}),
    "settled": ViewRules(trouble={"turn": 1, "idle": 1, "depose": 1}),
}
