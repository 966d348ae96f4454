"""The leader's term in the status of each Hub (docs/protocol.md, rule 1).

The leader's Lease and the slices have the term too. Somebody may delete them all, as a reinstallation does, while
members and what they write to live on. The next term has to be above the former ones even then, and epochs with it.
"""

from __future__ import annotations

import asyncio

import msgspec

from processhub.api.hub import Hub
from processhub.cluster.errors import ConflictError, ConnectionFailedError, InvalidError
from processhub.cluster.kinds import HUBS
from processhub.controller.errors import DeposedError
from processhub.controller.rounds.round import Round

_ANSWER_SECONDS = 2.0  # Children of a lost member must not wait for an admission webhook that hangs.


class Noted:
    """Whether this leader has written its term into the status of one Hub, or may have: no other is to have it then."""

    def __init__(self) -> None:
        self.by_this_leader = False

    def check(self, hub: Hub, term: int) -> None:
        """Raise DeposedError if the status shows that another leader leads, which has this term or a higher one.

        Somebody may delete the Lease of a leader before it has noted its term: the next one then has the same.
        """
        name, found = hub.metadata.name, hub.status.term
        if found > term:
            # A leader that was paused may see this before it looks at its Lease.
            raise DeposedError(f"leadership lost: the status of hub {name} has the higher term {found}")
        if found == term and not self.by_this_leader:
            raise DeposedError(f"leadership lost: another leader has written term {term} into the status of hub {name}")


async def note_term(round: Round, own: Noted) -> Round:
    """Write this leader's term into the Hub's status; returns the round with the Hub as it is then.

    Call it before the round gives any epoch. Where the write fails, the round continues: a status that can't be written
    must not keep children from starting elsewhere. Raises DeposedError if another leader has written its term.
    """
    hub = round.hub
    own.check(hub, round.term)
    if hub.status.term == round.term:
        return round
    noted = await round.steps.attempt(
        "the term can't be written into the Hub's status", lambda: _write(round, own), hub
    )
    # A status is written to any Hub with this name, so it may be the next one.
    if noted.metadata.uid != hub.metadata.uid or noted is hub:
        return round
    round.store.put(HUBS.plural, noted)
    return msgspec.structs.replace(round, hub=noted)


async def _write(round: Round, own: Noted) -> Hub:
    """Write the term. The schema refuses to lower it, so a late write of a former leader changes nothing."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            hub, key = round.hub, round.hub.metadata.key
            while (stored := await _written(round, hub, own)) is None:
                hub = await round.client.get(HUBS, *key)
                if hub.metadata.uid != round.hub.metadata.uid:
                    return hub
                own.check(hub, round.term)
    except TimeoutError:
        raise ConnectionFailedError(f"no answer within {_ANSWER_SECONDS:g} s") from None
    if stored.status.term < round.term:
        raise InvalidError(422, "Invalid", "the API server drops the field; apply the CRDs of this operator's version")
    return stored


async def _written(round: Round, hub: Hub, own: Noted) -> Hub | None:
    """The Hub with the term, or None if it has changed since it was seen: another leader may have written its own."""
    metadata, before = hub.metadata, own.by_this_leader
    body = {"metadata": {"resourceVersion": metadata.resource_version}, "status": {"term": round.term}}
    own.by_this_leader = True  # whether or not it is answered
    try:
        return await round.client.patch(HUBS, *metadata.key, body, subresource="status")
    except ConflictError:
        own.by_this_leader = before
        return None
