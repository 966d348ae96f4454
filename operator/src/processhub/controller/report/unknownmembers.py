"""Members that a Hub names and does not have: in spec.members.weights, and in the annotation of drained members.

Such a name is no error, because a member with this name may join later. But if it is misspelt it never has an effect.
So the Hub says it, in the message of its condition Accepted as long as it holds, and once in an Event.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from processhub.api.hub import Hub
from processhub.api.naming import ANNOTATION_DRAINED
from processhub.api.reasons import EventReason
from processhub.controller.observe.members import Member
from processhub.controller.observe.nodefit import has_pod
from processhub.controller.rounds.round import Round
from processhub.core.listing import listed

_NAMED = 3  # Names in a message.
_WEIGHTS, _DRAINED = "spec.members.weights", f"the annotation {ANNOTATION_DRAINED}"


class UnknownMembers:
    """What one Hub names that it does not have. ``message``: a sentence for each field, or ""."""

    def __init__(self) -> None:
        self.message = ""
        self._announced: set[tuple[str, str]] = set()  # Fields and names of which there is an Event.

    def look(self, round: Round, members: Mapping[str, Member], template: Mapping[str, Any] | None) -> None:
        """Compare the names with the ``members``; ``template`` is their pod template, or None if it is not known yet.

        A name is announced once, however often its member comes and goes.
        """
        named = _named(round.hub)
        if not any(named.values()):
            self.message, self._announced = "", set()
            return
        there = _members(round, members, template)
        self._announced &= {(field, name) for field, names in named.items() for name in names}
        sentences = []
        for field, names in named.items():
            unknown = sorted(name for name in names if name not in members and name not in there)
            if not unknown:
                continue
            sentences.append(_sentence(field, unknown, there))
            new = {(field, name) for name in unknown} - self._announced
            if new:
                self._announced |= new
                round.events.about_hub(round.hub, EventReason.UNKNOWN_MEMBER, sentences[-1], warning=True)
        self.message = "; ".join(sentences)


def _named(hub: Hub) -> dict[str, Collection[str]]:
    """The names of members by the field that has them."""
    drained = hub.drained
    return {_WEIGHTS: hub.spec.members.weights.keys(), _DRAINED: drained.keys()}


def _members(round: Round, members: Mapping[str, Member], template: Mapping[str, Any] | None) -> list[str]:
    """The members that the hub should have, also those of nodes that have no pod yet."""
    there = [name for name, member in members.items() if member.wanted]
    if round.hub.spec.members.mode != "PerNode":
        return there
    nodes = [
        node for node in round.store.nodes.items.values() if template is None or has_pod(template, node, there=False)
    ]
    return sorted({*there, *(node.metadata.name for node in nodes)})


def _sentence(field: str, unknown: Collection[str], there: Collection[str]) -> str:
    names = listed([repr(name) for name in unknown], _NAMED)
    nouns = ("member", "it joins") if len(unknown) == 1 else ("members", "they join")
    return (
        f"{field} names {names}, and the hub has no such {nouns[0]} now (it has {listed(there, _NAMED) or 'none'});"
        f" that has no effect until {nouns[1]}"
    )
