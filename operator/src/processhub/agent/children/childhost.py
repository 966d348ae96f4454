"""The supervisor as a child sees it, and the events that both send to other parts."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from processhub.agent.children.runs import ExitStatus, RunHandle
from processhub.agent.listeners import Listeners
from processhub.agent.registry.slicewatcher import DesiredRun

C = TypeVar("C")  # the child's class, which this module does not import


class ChildHost(Protocol[C]):
    """The part of the supervisor that a child calls."""

    news: ChildNews[C]

    @property
    def closing(self) -> bool:
        """Whether the agent is shutting down. No child is started from then on."""

    def may_start(self, child: C, *, again: bool) -> bool:
        """Whether the child may start now; ``again``: the same incarnation has run here before.

        A start that needs a handed-over state is refused while that state is not here, and the loss is reported.
        """

    def launch(self, child: C, desired: DesiredRun) -> RunHandle:
        """Start the child. Its outcome arrives as calls of ``child.begun``, ``child.running`` and ``child.ended``."""

    def changed(self, child: C, *, urgent: bool) -> None:
        """Handle a change of the child's report; ``urgent``: a client may wait for it."""

    def gone(self, child: C) -> None:
        """Remove the child: nothing of it runs, and it is not desired."""


class ChildNews(Generic[C]):
    """The events of a member's children, for the parts that act on them; one object for all children.

    The supervisor sends ``changed`` and ``gone``. The child itself sends all others.
    """

    def __init__(self) -> None:
        # The child's report changed; the flag says whether a client may wait for it.
        self.changed: Listeners[C, bool] = Listeners()
        self.gone: Listeners[C] = Listeners()  # nothing of the child runs, and it is not desired
        self.started: Listeners[C, float] = Listeners()  # the child runs; the number is the seconds since its start
        self.restarted: Listeners[C] = Listeners()  # the child is being restarted
        # The child's state is to be handed over to another member.
        self.handover_ordered: Listeners[C, DesiredRun] = Listeners()
        self.handover_declined: Listeners[C] = Listeners()  # the child declined to be moved
        # The child ended for a handover; it may have left a state.
        self.quiesced: Listeners[C, ExitStatus] = Listeners()
        # Another object than the one with this uid has the child now, which goes on as it is.
        self.adopted: Listeners[C, str] = Listeners()
        # The child is edited or suspended: it ends here, and its next run here takes its state up.
        self.replaced: Listeners[C] = Listeners()
        # It ended for that; it may have left a state.
        self.left: Listeners[C, ExitStatus] = Listeners()
