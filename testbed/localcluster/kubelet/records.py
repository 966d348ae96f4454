"""The records of an earlier kubelet's containers, from the pod's status: they died with it and count as ended."""

from __future__ import annotations

import datetime
import time
from typing import Any

from localcluster.kubelet.environment import Json
from localcluster.kubelet.runtime import Exit
from localcluster.kubelet.status import Record, Terminated


def make_records(pod: Json) -> tuple[list[Record], list[Record]]:
    """``(init containers, containers)`` in the order of the spec."""
    before = pod.get("status") or {}
    return (
        _records(pod["spec"].get("initContainers") or [], before.get("initContainerStatuses") or []),
        _records(pod["spec"]["containers"], before.get("containerStatuses") or []),
    )


def _records(specs: list[Json], statuses: list[Json]) -> list[Record]:
    known = {entry["name"]: entry for entry in statuses}
    return [_record(spec, known.get(spec["name"])) for spec in specs]


def _record(spec: Json, before: Json | None) -> Record:
    record = Record(spec)
    if before is None or not before.get("containerID"):
        return record
    record.restarts = int(before.get("restartCount") or 0)
    record.container_id = before["containerID"]
    state = before.get("state") or {}
    ended = state.get("terminated") or (before.get("lastState") or {}).get("terminated")
    if ended and "running" not in state:
        code, number = int(ended.get("exitCode") or 0), int(ended.get("signal") or 0)
        outcome = Exit(code, number, _seconds(ended.get("finishedAt")), ended.get("reason", ""))
        record.state = Terminated(_seconds(ended.get("startedAt")), outcome, record.container_id)
    elif running := state.get("running"):
        outcome = Exit(137, 9, time.time(), "ContainerStatusUnknown", "the kubelet that ran it ended, and it with it")
        record.state = Terminated(_seconds(running.get("startedAt")), outcome, record.container_id)
    return record


def _seconds(text: Any) -> float:
    return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
