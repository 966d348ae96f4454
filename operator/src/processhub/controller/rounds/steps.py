"""The steps of a round. Each stands alone: a step that fails is reported, is retried with back-off, and stops no other.

A round sends many requests, and the API server may refuse each of them forever, by a quota, an admission policy or a
rule of the schema. If that ended the round, one object would stop the hub for all of its users. So each request is a
step: it fails alone, and what does not depend on it continues. What depends on a step is documented where the step is
taken (reconcile.py, executor.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from processhub.api.child import Child
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.meta import shortened
from processhub.api.reasons import EventReason, GroupReason, Reason
from processhub.cluster.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ConnectionFailedError,
    InvalidError,
    NamespaceTerminatingError,
    UnavailableError,
)
from processhub.controller import metrics
from processhub.controller.errors import DeposedError, NameConflictError
from processhub.controller.objects.template import TemplateError
from processhub.controller.rounds.events import EventRecorder
from processhub.controller.rounds.unanswered import OpenRequests, UnansweredError

T = TypeVar("T")
LONGEST_SECONDS = 30.0  # Between two tries of a request that is refused, at most.
_FIRST_REFUSED, _FIRST_UNAVAILABLE = 1.0, 0.2  # Seconds until the second try; doubled with each try.
_LONGEST_UNAVAILABLE = 5.0  # Between two tries during an outage of the API server, at most.
_OUTAGE_SECONDS = 5.0  # An outage of the API server is reported only after this time.
_PATIENCE_SECONDS = 1.0  # For which one round waits for answers that a later round may take up.
_LOOK_SECONDS = 0.5  # Until the next round looks for such an answer.
_SENTENCE_MAX = 800  # Characters of one failure's text.
_NAMED = 3  # Failures that one message names.
_EVENTS_MAX = 5  # Events on a Hub in one round.
log = logging.getLogger(__name__)


class Failure(msgspec.Struct):
    """A step that failed, until it succeeds. ``what`` can't be done, ``why`` is the API server's sentence.

    ``reason`` is for the Hub's condition. Times are monotonic seconds: ``since`` the first failure, and no retry before
    ``until``. ``generation`` is the Hub's: after an edit of the Hub the step is retried at once.
    """

    what: str
    why: str
    reason: str
    since: float
    until: float
    pause: float
    generation: int
    announced: str = ""  # The sentence of the latest Event.

    @property
    def sentence(self) -> str:
        """The failure in one sentence."""
        return shortened(f"{self.what}: {self.why}", _SENTENCE_MAX)


Failures = dict[str, Failure]  # By ``what``. Kept between the rounds of a hub.
Subject = Child | ChildSet | Hub | None  # None stands for the Hub.


class Steps:
    """The steps of one round of one hub. ``again_in(seconds)`` is called for each that is to be retried.

    ``unanswered``: the requests of earlier rounds that are still under way.
    """

    def __init__(
        self,
        failures: Failures,
        events: EventRecorder,
        hub: Hub,
        again_in: Callable[[float], None],
        unanswered: OpenRequests | None = None,
    ) -> None:
        self._failures, self._events, self._hub, self._again_in = failures, events, hub, again_in
        self.unanswered = unanswered or OpenRequests()
        self._patience, self._awaits = _PATIENCE_SECONDS, False
        self._taken: set[str] = set()
        self._news: list[tuple[Failure, Subject]] = []

    async def take(
        self,
        what: str,
        work: Callable[[], Awaitable[object]],
        *,
        about: Subject = None,
        longest: float = LONGEST_SECONDS,
    ) -> bool:
        """Take a step; returns whether it was taken now and succeeded. The arguments are those of ``attempt``."""

        async def done() -> bool:
            await work()
            return True

        return await self.attempt(what, done, False, about=about, longest=longest)

    async def attempt(
        self,
        what: str,
        work: Callable[[], Awaitable[T]],
        otherwise: T,
        *,
        about: Subject = None,
        longest: float = LONGEST_SECONDS,
    ) -> T:
        """Take a step; returns the result of ``work``, or ``otherwise`` if it fails now or failed a short time ago.

        ``what`` names the object and what can't be done with it, as in "lease hub.hub-0 can't be made". A failure is
        reported in the Hub's condition Stalled and by an Event on ``about``. ``longest``: seconds between two tries at
        most. An error that is not the API server's is a bug in the operator. It is logged, and stops no other step.
        Raises NamespaceTerminatingError, as nothing can be created there, and DeposedError.
        """
        self._taken.add(what)
        if self.waits(what):
            return otherwise
        try:
            result = await work()
        except (NamespaceTerminatingError, DeposedError):
            raise
        except UnansweredError:
            return otherwise
        except (ApiError, NameConflictError, TemplateError) as error:
            self._fail(what, error, about, longest)
            return otherwise
        except Exception as error:
            log.exception("hub %s/%s: %s", *self._hub.metadata.key, what)
            metrics.FAILED_ROUNDS.inc()
            bug = RuntimeError(f"the operator has a bug, see its log: {type(error).__name__}: {error}")
            self._fail(what, bug, about, longest)
            return otherwise
        if self._failures.pop(what, None) is not None:
            log.info("hub %s/%s: no longer so: %s", *self._hub.metadata.key, what)
        return result

    async def answer(self, what: str, work: Callable[[], Awaitable[T]] | None = None) -> T | None:
        """The result of ``work``, or of that of an earlier round which is still under way; None if there is neither.

        This round awaits it for a moment only. Raises what the work raises, and UnansweredError.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            return await self.unanswered.result(what, work, max(0.0, self._patience))
        except UnansweredError:
            self._awaits = True
            self._again_in(_LOOK_SECONDS)
            raise
        finally:
            self._patience -= clock() - began

    def waits(self, what: str) -> bool:
        """Whether this step failed a short time ago, and is not retried in this round."""
        failure, now = self._failures.get(what), asyncio.get_running_loop().time()
        waits = failure is not None and now < failure.until and failure.generation == self._hub.metadata.generation
        if failure is not None and waits:
            self._taken.add(what)
            self._again_in(failure.until - now)
        return waits

    def note(self, what: str, error: Exception) -> None:
        """Report a failure of work that has retries of its own."""
        self._taken.add(what)
        self._fail(what, error, None, LONGEST_SECONDS)

    def failure(self, what: str) -> Failure | None:
        """The failure of this step, or None if it did not fail or is not reported yet."""
        failure = self._failures.get(what)
        return failure if failure is not None and self._is_reported(failure) else None

    def end(self) -> None:
        """End the round: forget the failures of steps that were not taken, and post Events about new failures."""
        for what in self._failures.keys() - self._taken:
            del self._failures[what]
        about_hub = 0
        for failure, about in self._news:
            if failure.announced == failure.sentence or not self._is_reported(failure):
                continue
            failure.announced = failure.sentence
            if about is not None:
                self._events.about_child(self._hub, about, EventReason.REFUSED, failure.sentence, warning=True)
            elif (about_hub := about_hub + 1) <= _EVENTS_MAX:
                self._events.about_hub(self._hub, EventReason.REFUSED, failure.sentence, warning=True)
        if about_hub > _EVENTS_MAX:
            text = f"{about_hub - _EVENTS_MAX} more steps fail; the operator's log names them"
            self._events.about_hub(self._hub, EventReason.REFUSED, text, warning=True)

    @property
    def failing(self) -> bool:
        """Whether a step of this round failed, reported or not, or has no answer yet."""
        return self._awaits or any(what in self._taken for what in self._failures)

    def trouble(self) -> tuple[str, str] | None:
        """The reason and message of the present failures for the Hub's condition, or None."""
        taken = [self._failures[what] for what in self._failures if what in self._taken]
        failures = [failure for failure in taken if self._is_reported(failure)]
        if not failures:
            return None
        refused = [failure for failure in failures if failure.reason != GroupReason.UNAVAILABLE]
        sentences = sorted(failure.sentence for failure in refused or failures)
        more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        return (refused or failures)[0].reason, "; ".join(sentences[:_NAMED]) + more

    def _fail(self, what: str, error: Exception, about: Subject, longest: float) -> None:
        now, generation = asyncio.get_running_loop().time(), self._hub.metadata.generation
        before = self._failures.get(what)
        pause, longest = _pause_after(error, longest)
        if before is not None and before.generation == generation:
            pause = max(pause, min(before.pause * 2, longest))
        failure = self._failures[what] = Failure(
            what=what,
            why=str(error),
            reason=_reason_of(error),
            since=before.since if before is not None else now,
            until=now + pause,
            pause=pause,
            generation=generation,
            announced=before.announced if before is not None else "",
        )
        self._again_in(pause)
        self._news.append((failure, about))
        if before is None or before.why != failure.why:
            log.warning("hub %s/%s: %s; again in %.1f s", *self._hub.metadata.key, failure.sentence, pause)

    def _is_reported(self, failure: Failure) -> bool:
        """Whether the failure is reported. A short outage of the API server is not."""
        waited = asyncio.get_running_loop().time() - failure.since
        return failure.reason != GroupReason.UNAVAILABLE or waited >= _OUTAGE_SECONDS


def _pause_after(error: Exception, longest: float) -> tuple[float, float]:
    """The seconds until the next try, and the most between two tries."""
    if isinstance(error, UnavailableError):
        return max(_FIRST_UNAVAILABLE, min(error.retry_after, longest)), min(_LONGEST_UNAVAILABLE, longest)
    if isinstance(error, ConnectionFailedError | ConflictError) and not isinstance(error, AlreadyExistsError):
        return _FIRST_UNAVAILABLE, min(_LONGEST_UNAVAILABLE, longest)
    return min(_FIRST_REFUSED, longest), longest


def _reason_of(error: Exception) -> str:
    """The reason of the Hub's condition."""
    if isinstance(error, UnavailableError | ConnectionFailedError):
        return GroupReason.UNAVAILABLE
    return Reason.INVALID if isinstance(error, InvalidError | TemplateError) else GroupReason.REFUSED
