"""What a request for a child does that runs nowhere, in a hub that starts children on demand (spec.onDemand)."""

from __future__ import annotations

import msgspec

from processhub.api.hub import Hub, OnDemand
from processhub.api.slice import Activation
from processhub.client.session import Session
from processhub.core.listing import counted
from processhub.core.model.activation import View, ViewPhase, chosen_member, home_of


class Outlook(msgspec.Struct, frozen=True):
    """What the next request for a child would do.

    ``says`` is that as a clause. ``member`` is the member that would start the child now, "" if none would, or if the
    operator chooses it. ``asked``: requests wait for the child already.
    """

    says: str
    member: str = ""
    asked: bool = False


def outlook(session: Session, child_id: str) -> Outlook | None:
    """What the next request for this child would do, if it is on no record; None in a hub without spec.onDemand."""
    hub = session.living_hub()
    template = hub.spec.on_demand
    if template is None:
        return None
    if hub.spec.suspend:
        return Outlook(f"a request is refused, because spec.suspend of hub {session.name} is true")
    if hub.partitioned:
        return Outlook(f"a request is refused, because the hub has lost its quorum: {hub.partitioned}")
    if waiting := sorted(name for name, ids in session.registry.asks.items() if child_id in ids):
        return Outlook(f"requests wait for it ({', '.join(waiting)}); the operator has not placed it yet", asked=True)
    if template.max is not None and _count(session) >= template.max:
        return Outlook(
            f"a request is answered 429, because the hub has its {counted(template.max, 'child', 'children')} on "
            "demand (spec.onDemand.max)"
        )
    return _by_view(session, child_id, template) or Outlook(_by_operator(hub))


def view_of(session: Session) -> Activation | None:
    """The newest view that a slice names, as one of its members has it."""
    return max(session.registry.activations.values(), key=lambda order: order.view, default=None)


def chosen_by(order: Activation, child_id: str) -> str:
    """The member that the view chooses for the id."""
    return chosen_member(View.ordered(order), child_id)


def by_what(order: Activation, child_id: str) -> str:
    """What the view chooses the id's member by."""
    return "its number" if home_of(View.ordered(order), child_id) else "the hash"


def _by_view(session: Session, child_id: str, template: OnDemand) -> Outlook | None:
    """What the view has its members do; None if the hub has no view."""
    newest = view_of(session)
    if newest is None:
        return None
    registry, view = session.registry, newest.view
    orders = {name: order for name, order in registry.activations.items() if order.view == view}
    if any(order.phase != ViewPhase.OPEN for order in orders.values()):
        return Outlook(
            f"a request waits until the next view is open: view {view} closes, because the members or the Hub's spec "
            "have changed"
        )
    chosen = chosen_by(newest, child_id)
    whose = f"{chosen}, its member by {by_what(newest, child_id)}"
    known = next((member for member in session.living_hub().status.members if member.name == chosen), None)
    if chosen not in orders or (known is not None and not known.ready):
        why = f" ({known.message})" if known is not None and known.message else ""
        return Outlook(f"a request waits for {whose}, which is not ready{why}")
    if known is not None and known.children >= (limit := session.living_hub().spec.members.max_children):
        return Outlook(
            f"a request is answered 429, because {chosen} has its {counted(limit, 'child', 'children')} "
            "(spec.members.maxChildren)"
        )
    most, share = orders[chosen].most, orders[chosen].share
    if most and _count(session, chosen) >= share:
        if most - _count(session) >= len(View.ordered(newest).starting):
            return Outlook(f"a request waits until the next view is open, because {chosen} has used its share up")
        return Outlook(
            f"a request is answered 429, because {chosen} has its {counted(share, 'child', 'children')} on demand, its "
            f"share of spec.onDemand.max ({template.max})"
        )
    return Outlook(f"a request would start it on {whose}", chosen)


def _count(session: Session, member: str = "") -> int:
    """The number of children on demand, of the hub or of one member."""
    return sum(
        record.on_demand and (not member or any(node.name == member for node in record.nodes))
        for record in session.registry.records.values()
    )


def _by_operator(hub: Hub) -> str:
    strategy = hub.spec.distribution.strategy
    if strategy == "Local":
        return "a request would have the operator place it on the member that is asked (Local)"
    return f"a request would have the operator place it by {strategy}"
