"""The dry run of a Pod of an edited template, and the answers that there are by now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

import msgspec

from processhub.api.child import Child, ChildSpec
from processhub.api.childset import ChildSet
from processhub.api.hub import Hub
from processhub.api.reasons import Reason
from processhub.cluster.errors import ApiError, ForbiddenError, InvalidError, NamespaceTerminatingError
from processhub.cluster.kinds import PODS
from processhub.controller.execute.memory import ExecuteMemory
from processhub.controller.objects.childpod import PodPlace, child_pod
from processhub.controller.rounds.round import Round
from processhub.core.acceptance import Refusal, invalid
from processhub.registry.grammar import Assignment

log = logging.getLogger(__name__)
NO_ANSWER = Refusal(Reason.WAITING, "the API server has not checked the edited template yet")
_A_ROUND = 200  # Templates whose checks are under way at most.
_PATIENCE_SECONDS = 0.5  # For which a round waits for answers.
_REJECTED_SECONDS = 10.0  # Until a template is checked again that was rejected: a policy or a class may have changed.
_UNANSWERED_SECONDS = 0.5  # Until it is looked again for an answer.
_QUOTA_USED_UP = "exceeded quota: "  # In the message. The Pod that runs counts, and would be gone.
_ANY_NODE = "node"  # The check finds no node for the Pod.


class EditedTemplate(msgspec.Struct, frozen=True):
    """An edited template, by one of the children that have a former one on record.

    ``digest``: the hash of the edited workload. ``spec``: that of the child as edited. ``owner``: the object that has
    the template. ``entry``: what the child has on record.
    """

    digest: str
    spec: ChildSpec
    owner: Child | ChildSet | Hub
    child_id: str
    entry: Assignment


def seconds_until_again(refusal: Refusal) -> float:
    """The seconds after which a template is looked at again that is not accepted now."""
    return _UNANSWERED_SECONDS if refusal.reason is Reason.WAITING else _REJECTED_SECONDS


async def verdicts(
    round: Round, memory: ExecuteMemory, edited: Sequence[EditedTemplate], awaited: Collection[str]
) -> dict[str, Refusal | None]:
    """The answers that there are by now, by the workload's hash. The API server is asked about what it was not.

    An answer may take long, as webhooks may have a say in it. It must not delay failovers, so it is awaited for a
    moment only. ``awaited``: the hashes of which a later round takes the answer.
    """
    tasks = memory.template_checks.tasks
    news = []
    for template in edited:
        if template.digest not in tasks and len(tasks) < _A_ROUND:
            task = asyncio.create_task(_check(round, template, memory), name=f"template of {template.child_id}")
            news.append(task)
            tasks[template.digest] = task
    if news:
        await asyncio.wait(news, timeout=_PATIENCE_SECONDS)
    asked = {template.digest for template in edited}
    answers = {digest: _result(tasks.pop(digest)) for digest in asked & tasks.keys() if tasks[digest].done()}
    for digest in [digest for digest, task in tasks.items() if task.done() and digest not in awaited]:
        _result(tasks.pop(digest))  # It was about a template that was edited again.
    return answers


def _result(task: asyncio.Task[Refusal | None]) -> Refusal | None:
    try:
        return task.result()
    except Exception:
        log.exception("an edited template was not checked")  # The creation of its Pod says what is wrong with it.
        return None


async def _check(round: Round, template: EditedTemplate, memory: ExecuteMemory) -> Refusal | None:
    """Why the Pod of the template can't be created, or None."""
    workload, policy = template.spec.pod, template.spec.restart_policy
    assert workload is not None
    entry = msgspec.structs.replace(template.entry, workload=template.digest, restart_policy=policy)
    place = PodPlace(child_id=template.child_id, member="member", node=_ANY_NODE, entry=entry)
    try:
        manifest = child_pod(round.hub, template.owner, place, workload, tls=memory.tls_required)
    except (AttributeError, TypeError) as error:  # The schema allows any object as a template.
        return invalid(f"spec.pod.template is not a PodTemplateSpec: {error}")
    metadata = manifest["metadata"]
    metadata["generateName"] = f"{metadata.pop('name')}-"  # Its own name is that of the Pod that runs.
    try:
        async with memory.template_checks.limit:
            await round.client.create(PODS, round.hub.metadata.namespace, manifest, dry_run=True)
    except (ForbiddenError, InvalidError) as error:
        if _QUOTA_USED_UP in error.message or isinstance(error, NamespaceTerminatingError):
            return None
        return invalid(f"the pod of the edited template is refused: {error.message}"[:1000])
    except ApiError as error:
        return Refusal(Reason.WAITING, f"the edited template is not checked yet: {error.message}"[:1000])
    return None
