"""The label ``processhub.dev/member`` on pods of members: their StatefulSet gives all of them the same labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

from processhub.api.kubernetes import Pod
from processhub.api.naming import LABEL_MEMBER, label_value
from processhub.cluster.client import Client
from processhub.cluster.errors import ConflictError, NotFoundError
from processhub.cluster.kinds import PODS
from processhub.controller.observe.members import Member
from processhub.controller.rounds.steps import Steps
from processhub.controller.store.informers import Store

log = logging.getLogger(__name__)


async def label_pods(client: Client, store: Store, members: Iterable[Member], steps: Steps) -> None:
    """Label the pods that are not labelled yet; each is a step of its own."""
    for member in members:
        pod = member.pod
        if pod is None or pod.metadata.deletion_timestamp is not None:
            continue
        wanted = label_value(member.name)
        if pod.metadata.labels.get(LABEL_MEMBER) != wanted:
            what = f"pod {pod.metadata.name} can't get its label {LABEL_MEMBER}"
            await steps.take(what, partial(_label, client, store, pod, wanted))


async def _label(client: Client, store: Store, pod: Pod, wanted: str) -> None:
    # The uid: of a pod that was replaced meanwhile nothing is known.
    patch = {"metadata": {"uid": pod.metadata.uid, "labels": {LABEL_MEMBER: wanted}}}
    try:
        store.put("pods", await client.patch(PODS, pod.metadata.namespace, pod.metadata.name, patch))
    except (NotFoundError, ConflictError) as error:
        log.debug("pod %s: %s", pod.metadata.name, error.message)
