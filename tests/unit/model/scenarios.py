"""The hubs that are checked: small, with few faults in all orders, and a counterexample for every rule left out."""

from __future__ import annotations

from .rules import Rules

_JOIN = {"ids": ("b",), "joiner": True}  # b ranks m1, the new one, first; a ranks m1 of two and m2 of three
_HOLD, _MOVE = {"holds": True}, {"holds": False}

# A second or so each: for every test run. Together about 70,000 states.
SCENARIOS = {
    "nothing happens, Move": Rules(**_MOVE),
    "crash, Hold": Rules(**_HOLD, trouble={"die": 1}),
    "crash, Move": Rules(**_MOVE, trouble={"die": 1}),
    "clean stop, Hold": Rules(**_HOLD, trouble={"stop": 1}),
    "clean stop, Move": Rules(**_MOVE, trouble={"stop": 1}),
    "cut off, child re-created, Hold": Rules(**_HOLD, trouble={"cut": 1, "recreate": 1}),
    "leader deposed, child re-created, Move": Rules(**_MOVE, trouble={"depose": 1, "recreate": 1}),
    "leader deposed, child deleted, Hold": Rules(**_HOLD, trouble={"depose": 1, "delete": 1}),
    "leader deposed twice, Hold": Rules(**_HOLD, trouble={"depose": 2}),
    "slice write lost, cut off, Hold": Rules(**_HOLD, trouble={"lose": 1, "cut": 1}),
    "slice write lost, crash, Hold": Rules(**_HOLD, trouble={"lose": 1, "die": 1}),
    "slice write not answered, drain, Hold": Rules(**_HOLD, trouble={"unanswered": 1, "drain": 1}),
    "slice write not answered, child re-created, Move": Rules(**_MOVE, trouble={"unanswered": 1, "recreate": 1}),
    "slice write not answered, leader deposed, Hold": Rules(**_HOLD, trouble={"unanswered": 1, "depose": 1}),
    "join, slice write not answered, Hold": Rules(**_JOIN, **_HOLD, trouble={"unanswered": 1}),
    "two children, slice write not answered, Hold": Rules(ids=("a", "d"), **_HOLD, trouble={"unanswered": 1}),
    "crash, clock set back, Hold": Rules(**_HOLD, trouble={"die": 1, "clock": 1}),
    "join, child deleted, Hold": Rules(**_JOIN, **_HOLD, trouble={"delete": 1}),
    "join, child re-created, Move": Rules(**_JOIN, **_MOVE, trouble={"recreate": 1}),
    "join, leader deposed, Hold": Rules(**_JOIN, **_HOLD, trouble={"depose": 1}),
    "join, drain and undrain, Hold": Rules(**_JOIN, **_HOLD, trouble={"drain": 1}),
    "join, slice write lost, Move": Rules(**_JOIN, **_MOVE, trouble={"lose": 1}),
    "drain and undrain, Move": Rules(**_MOVE, trouble={"drain": 1}),
    "guided elsewhere, cut off, Hold": Rules(guided=True, **_HOLD, trouble={"redirect": 1, "cut": 1}),
    "guided to and fro, Move": Rules(guided=True, **_MOVE, trouble={"redirect": 2}),
    "pinned, crash, Move": Rules(pinned=True, **_MOVE, trouble={"die": 1}),
    "pinned, cut off, child re-created, Hold": Rules(pinned=True, **_HOLD, trouble={"cut": 1, "recreate": 1}),
    "suspended and resumed, Hold": Rules(**_HOLD, trouble={"suspend": 2}),
    "suspended, drain and undrain, Hold": Rules(**_HOLD, trouble={"suspend": 1, "drain": 1}),
    "suspended, slice write lost, Move": Rules(**_MOVE, trouble={"suspend": 1, "lose": 1}),
    "suspended, child re-created, Move": Rules(**_MOVE, trouble={"suspend": 1, "recreate": 1}),
    "suspended, leader deposed, Hold": Rules(**_HOLD, trouble={"suspend": 1, "depose": 1}),
    "suspended, slice write not answered, Hold": Rules(**_HOLD, trouble={"suspend": 1, "unanswered": 1}),
    "join, suspended, Hold": Rules(**_JOIN, **_HOLD, trouble={"suspend": 1}),
    "guided elsewhere in its sleep, Move": Rules(guided=True, **_MOVE, trouble={"suspend": 1, "redirect": 1}),
    "two children, re-created, Hold": Rules(ids=("a", "d"), **_HOLD, trouble={"recreate": 1}),
    "three members, one cut off, Hold": Rules(members=3, **_HOLD, trouble={"cut": 1}),
    "three members, drain and undrain, Move": Rules(members=3, ids=("b",), **_MOVE, trouble={"drain": 1}),
    "three members, one joins, Move": Rules(members=3, ids=("a",), joiner=True, **_MOVE),
}

# Minutes each: ``python -m model`` in tests/unit. Together about 700,000 states.
DEEP = {
    "slice write not answered, cut off, Move": Rules(**_MOVE, trouble={"unanswered": 1, "cut": 1}),
    "slice write not answered, cut off, Hold": Rules(**_HOLD, trouble={"unanswered": 1, "cut": 1}),
    "slice write not answered, crash, Hold": Rules(**_HOLD, trouble={"unanswered": 1, "die": 1}),
    "two slice writes not answered, drain, Hold": Rules(**_HOLD, trouble={"unanswered": 2, "drain": 1}),
    "join, slice write not answered, drain, Move": Rules(**_JOIN, **_MOVE, trouble={"unanswered": 1, "drain": 1}),
    "suspended, crash, Move": Rules(**_MOVE, trouble={"suspend": 1, "die": 1}),
    "pinned and suspended, crash, Move": Rules(pinned=True, **_MOVE, trouble={"suspend": 1, "die": 1}),
    "suspended, cut off, Move": Rules(**_MOVE, trouble={"suspend": 1, "cut": 1}),
    "crash, clock set back, Move": Rules(**_MOVE, trouble={"die": 1, "clock": 1}),
    "crash, child re-created, Hold": Rules(**_HOLD, trouble={"die": 1, "recreate": 1}),
    "cut off, child deleted, Move": Rules(**_MOVE, trouble={"cut": 1, "delete": 1}),
    "crash and cut off, Hold": Rules(**_HOLD, trouble={"die": 1, "cut": 1}),
    "crash and cut off, Move": Rules(**_MOVE, trouble={"die": 1, "cut": 1}),
    "clean stop, child re-created, Move": Rules(**_MOVE, trouble={"stop": 1, "recreate": 1}),
    "leader deposed, cut off, Hold": Rules(**_HOLD, trouble={"depose": 1, "cut": 1}),
    "leader deposed, cut off, Move": Rules(**_MOVE, trouble={"depose": 1, "cut": 1}),
    "leader deposed, crash, Hold": Rules(**_HOLD, trouble={"depose": 1, "die": 1}),
    "leader deposed, crash, Move": Rules(**_MOVE, trouble={"depose": 1, "die": 1}),
    "join, crash, Hold": Rules(**_JOIN, **_HOLD, trouble={"die": 1}),
    "join, crash, Move": Rules(**_JOIN, **_MOVE, trouble={"die": 1}),
    "join, cut off, Hold": Rules(**_JOIN, **_HOLD, trouble={"cut": 1}),
    "join, cut off, Move": Rules(**_JOIN, **_MOVE, trouble={"cut": 1}),
    "drain, cut off, Move": Rules(**_MOVE, trouble={"drain": 1, "cut": 1}),
    "drain, crash, Hold": Rules(**_HOLD, trouble={"drain": 1, "die": 1}),
    "guided elsewhere, crash, Move": Rules(guided=True, **_MOVE, trouble={"redirect": 1, "die": 1}),
    "guided elsewhere, leader deposed, Hold": Rules(guided=True, **_HOLD, trouble={"redirect": 1, "depose": 1}),
    "two children, one member cut off, Move": Rules(ids=("a", "d"), **_MOVE, trouble={"cut": 1}),
    "two children, join, Hold": Rules(ids=("b", "c"), joiner=True, **_HOLD),
    "three members, one cut off, Move": Rules(members=3, **_MOVE, trouble={"cut": 1}),
    "three members, one crashes, Hold": Rules(members=3, **_HOLD, trouble={"die": 1}),
}

# Each rule left out, in a hub that is too small to work without it.
NEEDED = {
    "removals first": Rules(trouble={"cut": 1}),
    "removals written": Rules(trouble={"lose": 1, "cut": 1}),
    "live read": Rules(trouble={"cut": 1}),
    "live read of the emptied": Rules(trouble={"die": 1, "recreate": 1}),
    "list after the Lease": Rules(trouble={"cut": 1}),
    "term fence": Rules(trouble={"depose": 1, "recreate": 1}),
    "settling": Rules(trouble={"depose": 1, "recreate": 1}),
    "the present holder's word": Rules(trouble={"die": 1, "recreate": 1}),
    "what is reported": Rules(trouble={"recreate": 1}),
    "uncertain until read": Rules(trouble={"unanswered": 1, "drain": 1}),
    "written again": Rules(trouble={"unanswered": 1, "drain": 1}),
    "terms as listed": Rules(trouble={"unanswered": 1, "depose": 1, "recreate": 1}),
    "renewals refute": Rules(trouble={"die": 1, "clock": 1}),
}
NEEDED_DEEP = {"leases listed": Rules(**_JOIN, trouble={"depose": 1, "die": 1})}
