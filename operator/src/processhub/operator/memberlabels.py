"""The label ``processhub.dev/member`` on pods of members: their StatefulSet gives all of them the same labels."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from processhub.api.naming import LABEL_MEMBER, label_value
from processhub.cluster.client import Client
from processhub.cluster.errors import ApiError, ConflictError, ConnectionFailedError, NotFoundError, UnavailableError
from processhub.cluster.kinds import PODS
from processhub.operator.members import Member
from processhub.operator.store import Store

_AGAIN_SECONDS = 5.0
log = logging.getLogger(__name__)


async def label_pods(client: Client, store: Store, members: Iterable[Member], tried: set[str]) -> float | None:
    """Label the pods that are not labelled yet; ``tried`` remembers the uids of those that may not be.

    The seconds until one that could not be labelled now is to be tried again, None where there is none.
    """
    again = None
    for member in members:
        pod = member.pod
        if pod is None or pod.metadata.uid in tried or pod.metadata.deletion_timestamp is not None:
            continue
        wanted = label_value(member.name)
        if pod.metadata.labels.get(LABEL_MEMBER) == wanted:
            continue
        # The uid: of a pod that was replaced meanwhile nothing is known.
        patch = {"metadata": {"uid": pod.metadata.uid, "labels": {LABEL_MEMBER: wanted}}}
        try:
            stored = await client.patch(PODS, pod.metadata.namespace, pod.metadata.name, patch)
        except (NotFoundError, ConflictError) as error:
            log.debug("pod %s: %s", pod.metadata.name, error.message)
        except (UnavailableError, ConnectionFailedError) as error:
            again = _AGAIN_SECONDS
            log.info("pod %s gets its label %s later: %s", pod.metadata.name, LABEL_MEMBER, error.message)
        except ApiError as error:
            tried.add(pod.metadata.uid)
            log.warning("pod %s gets no label %s: %s", pod.metadata.name, LABEL_MEMBER, error.message)
        else:
            store.put("pods", stored)
    return again
