"""The label ``processhub.dev/member`` on pods of members: their StatefulSet gives all of them the same labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

from processhub.api.kubernetes import Pod
from processhub.api.naming import LABEL_MEMBER, label_value
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import PODS
from processhub.controller.observe.members import Member
from processhub.controller.rounds.round import Round

log = logging.getLogger(__name__)


async def label_pods(round: Round, members: Iterable[Member]) -> None:
    """Label the pods that have no such label yet. Each is a step of its own."""
    for member in members:
        pod = member.pod
        if pod is None or pod.metadata.deletion_timestamp is not None:
            continue
        wanted = label_value(member.name)
        if pod.metadata.labels.get(LABEL_MEMBER) != wanted:
            what = f"pod {pod.metadata.name} can't get its label {LABEL_MEMBER}"
            await round.steps.take(what, partial(_label, round, pod, wanted))


async def _label(round: Round, pod: Pod, wanted: str) -> None:
    # With the uid, because nothing is known of a pod that replaced this one meanwhile.
    patch = {"metadata": {"uid": pod.metadata.uid, "labels": {LABEL_MEMBER: wanted}}}
    try:
        round.store.put("pods", await round.client.patch(PODS, pod.metadata.namespace, pod.metadata.name, patch))
    except (NotFoundError, ConflictError) as error:
        log.debug("pod %s: %s", pod.metadata.name, error.message)
