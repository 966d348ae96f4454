"""Which authority signs the members' certificates, and which ones are trusted: a pure function of what was before.

An authority that is to replace another is trusted before it signs anything, and the other is trusted until it expires:

    current A             signs A        trusted: A
    current A, next B     signs A        trusted: A, B     until members and clients have had time to read B
    current B, retired A  signs B        trusted: B, A     until A has expired
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from processhub.controller.authority.certificates import KeyPair, fresh_for, is_valid, new_authority, sequence_of

_OVERLAP = 600.0  # Seconds in which all have read a new authority. The kubelet updates ConfigMaps in two minutes.


class AuthorityState(msgspec.Struct, frozen=True, kw_only=True):
    """The authorities of an installation. ``since`` is when ``next`` became trusted."""

    current: KeyPair
    next: KeyPair | None = None
    since: datetime | None = None
    retired: tuple[str, ...] = ()

    @property
    def trusted(self) -> str:
        """The certificates of all authorities by which members are verified, as one PEM text."""
        upcoming = [self.next.certificate] if self.next is not None else []
        return sequence_of([self.current.certificate], upcoming, self.retired)


def advance(
    state: AuthorityState | None, given: KeyPair | None, now: datetime, seconds: float, *, self_made: bool
) -> AuthorityState | None:
    """The state at this time; None if there is no authority yet.

    ``given`` is the authority that others want to sign: cert-manager, or somebody who edited the operator's Secret.
    ``self_made``: the operator makes authorities itself, valid for so many ``seconds``.
    """
    if state is None:
        first = given or (new_authority(now, seconds) if self_made else None)
        return None if first is None else AuthorityState(current=first)
    retired = tuple(certificate for certificate in state.retired if is_valid(certificate, now))
    state = msgspec.structs.replace(state, retired=retired)
    known = {state.current.certificate, *([state.next.certificate] if state.next is not None else [])}
    if given is not None and given.certificate not in known and is_valid(given.certificate, now):
        state = msgspec.structs.replace(state, next=given, since=now)
    elif self_made and state.next is None and not fresh_for(state.current.certificate, now):
        state = msgspec.structs.replace(state, next=new_authority(now, seconds), since=now)
    if state.next is None or state.since is None:
        return state
    overlap = timedelta(seconds=min(_OVERLAP, seconds / 10))
    # A clock that was set back must not make this wait for ever.
    waited = not timedelta(0) <= now - state.since < overlap
    if waited or not is_valid(state.current.certificate, now):
        return AuthorityState(current=state.next, retired=(*retired, state.current.certificate))
    return state


def seconds_until_change(state: AuthorityState, now: datetime, seconds: float) -> float:
    """The seconds until ``advance`` may have something to do, if nobody gives another authority."""
    if state.next is not None and state.since is not None:
        return max(0.0, min(_OVERLAP, seconds / 10) - (now - state.since).total_seconds())
    return fresh_for(state.current.certificate, now)
