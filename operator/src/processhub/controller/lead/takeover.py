"""The takeover from an earlier leader: slices with this leader's term, and hubs for which writing it was refused."""

from __future__ import annotations

from processhub.api.slice import FORMAT
from processhub.cluster.errors import ApiError
from processhub.controller.errors import LaterFormatError
from processhub.controller.lead.terms import TermsRaised, raise_terms
from processhub.controller.rounds.round import Round
from processhub.controller.store.hubstate import HubKey


class Takeover:
    """The outcome of raising the terms, when this leader began and since.

    ``generations``: slice's uid → the generation with this leader's term. ``behind``: the hubs for which nothing may be
    done before their terms are raised, and why they could not be.
    """

    def __init__(self) -> None:
        self.generations: dict[str, int] = {}
        self.behind: dict[HubKey, ApiError] = {}
        self._begun: set[str] = set()  # the uids of the Hubs that this leader has begun to lead

    def begin(self, raised: TermsRaised) -> None:
        """Take the outcome of raising the terms of all slices."""
        self.generations.update(raised.generations)
        self.behind.update(raised.behind)

    async def catch_up(self, round: Round) -> bool:
        """Raise the terms of the hub's slices if this was refused before; returns whether the hub can be led.

        Before the first plan for a Hub, which may have been unreadable so far, the Leases that were deleted are added.
        """
        later = (known.present for known in round.state.slices.values() if known.present.spec.format > FORMAT)
        if (item := next(later, None)) is not None:
            text = f"slice {item.metadata.name} is of format {item.spec.format}, this operator knows {FORMAT}"
            round.steps.note(
                "the hub can't be led", LaterFormatError(f"{text}; everything runs on; upgrade the operator again")
            )
            return False
        if round.hub.metadata.key in self.behind and not await self._raise(round):
            return False
        if (uid := round.hub.metadata.uid) not in self._begun:
            round.state.add_missing_leases(round.hub, round.now())
            self._begun.add(uid)
        return True

    async def _raise(self, round: Round) -> bool:
        key, store = round.hub.metadata.key, round.store

        async def raise_them() -> None:
            raised = await raise_terms(round.client, store, (key[0],), round.term, key)
            if key in raised.behind:
                raise raised.behind[key]
            # A restarted member may have read entries before the former leader removed them.
            await store.read_leases(key[0])
            self.generations.update(raised.generations)
            del self.behind[key]

        return await round.steps.take("what an earlier leader has left of the hub can't be taken over", raise_them)
