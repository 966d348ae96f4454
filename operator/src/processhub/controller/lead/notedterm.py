"""The leader's term in the status of each Hub (docs/protocol.md, rule 1).

The leader's Lease and the slices have the term too. Somebody may delete them all, as a reinstallation does, while
members and what they write to live on. The next term has to be above the former ones even then, and epochs with it.
"""

from __future__ import annotations

import asyncio

import msgspec

from processhub.api.hub import Hub
from processhub.cluster.errors import ConnectionFailedError, InvalidError
from processhub.cluster.kinds import HUBS
from processhub.controller.errors import DeposedError
from processhub.controller.rounds.round import Round

_ANSWER_SECONDS = 2.0  # Children of a lost member must not wait for an admission webhook that hangs.


async def note_term(round: Round) -> Round:
    """Write this leader's term into the Hub's status; returns the round with the Hub as it is then.

    Call it before the round gives any epoch. Where the write fails, the round continues: a status that can't be written
    must not keep children from starting elsewhere. Raises DeposedError if the status has a higher term.
    """
    hub = round.hub
    if hub.status.term > round.term:
        # A leader that was paused may see this before it looks at its Lease.
        name, term = hub.metadata.name, hub.status.term
        raise DeposedError(f"leadership lost: the status of hub {name} has the higher term {term}")
    if hub.status.term == round.term:
        return round
    noted = await round.steps.attempt("the term can't be written into the Hub's status", lambda: _write(round), hub)
    # A status is written to any Hub with this name, so it may be the next one.
    if noted.metadata.uid != hub.metadata.uid or noted is hub:
        return round
    round.store.put(HUBS.plural, noted)
    return msgspec.structs.replace(round, hub=noted)


async def _write(round: Round) -> Hub:
    """Write the term. The schema refuses to lower it, so a late write of a former leader changes nothing."""
    body = {"status": {"term": round.term}}
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            stored = await round.client.patch(HUBS, *round.hub.metadata.key, body, subresource="status")
    except TimeoutError:
        raise ConnectionFailedError(f"no answer within {_ANSWER_SECONDS:g} s") from None
    if stored.status.term < round.term:
        raise InvalidError(422, "Invalid", "the API server drops the field; apply the CRDs of this operator's version")
    return stored
