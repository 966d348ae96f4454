"""The short form in which a slice's status lists the children that run well: in groups, with what they have in common.

Nearly all children of a member are Running and have not been restarted. Their reports differ in id and epoch, and the
uid, process and second of their start are those of many others. In a group, such a child takes some 15 bytes of a
status instead of 120, and the API server decodes one string for all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from processhub.api.meta import Wire
from processhub.api.reasons import Reason, State

_FEW = 4  # so few children take less room with their whole reports
_REASON = f"reason={Reason.STARTED}"


class RunningGroup(Wire, frozen=True, kw_only=True):
    """Children that have run in one role since one second, without a restart.

    ``children`` has an item ``<epoch above first_epoch>:<id>`` for each, separated by single spaces. For a child with
    another uid, or in another process, than the group's, it is ``<epoch above first_epoch>,<uid>,<pid>:<id>``; what is
    empty there is the group's. ``pid`` is 0 if the member runs no process for them.
    """

    role: str = "Active"
    started_at: str
    uid: str
    pid: int = 0
    first_epoch: int
    children: str


class _Well(NamedTuple):
    """What differs between the children of a group, as their reports have it."""

    id: str
    epoch: int
    uid: str
    pid: str


def grouped(reports: Mapping[str, str]) -> tuple[tuple[RunningGroup, ...], dict[str, str]]:
    """The groups of the children that run well, and the reports of all others, by id. They never take more bytes."""
    alike: defaultdict[tuple[str, str], list[_Well]] = defaultdict(list)
    for child_id, text in reports.items():
        fields = text.split(" ")
        if len(fields) != 8 or fields[7] != _REASON or " " in child_id:
            continue
        if fields[3] == State.RUNNING and fields[5] == "0" and fields[6] != "-":
            alike[fields[2], fields[6]].append(_Well(child_id, int(fields[1]), fields[0], fields[4]))
    many = {common: runs for common, runs in alike.items() if len(runs) >= _FEW}
    within = {run.id for runs in many.values() for run in runs}
    others = {child_id: text for child_id, text in reports.items() if child_id not in within}
    return tuple(_group(role, started_at, runs) for (role, started_at), runs in many.items()), others


def _group(role: str, started_at: str, runs: list[_Well]) -> RunningGroup:
    uid, pid = _most_common(run.uid for run in runs), _most_common(run.pid for run in runs)
    first = min(run.epoch for run in runs)

    def item(run: _Well) -> str:
        if run.uid == uid and run.pid == pid:
            return f"{run.epoch - first}:{run.id}"
        own_uid, own_pid = run.uid if run.uid != uid else "", run.pid if run.pid != pid else ""
        return f"{run.epoch - first},{own_uid},{own_pid}:{run.id}"

    return RunningGroup(
        role=role,
        started_at=started_at,
        uid=uid,
        pid=0 if pid == "-" else int(pid),
        first_epoch=first,
        children=" ".join(map(item, runs)),
    )


def _most_common(values: Iterable[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def whole_reports(groups: Iterable[RunningGroup], others: Mapping[str, str]) -> dict[str, str]:
    """The reports of all children, by id. For an item that can't be read, its text stands as the child's report."""
    reports: dict[str, str] = {}
    for group in groups:
        uid, first, pid = group.uid, group.first_epoch, str(group.pid or "-")
        end = f" 0 {group.started_at} {_REASON}"
        middle = f" {group.role} {State.RUNNING} "
        for item in group.children.split(" "):
            head, _, child_id = item.partition(":")
            epoch, _, own = head.partition(",")
            own_uid, _, own_pid = own.partition(",")
            if epoch.isdecimal():
                reports[child_id] = f"{own_uid or uid} {first + int(epoch)}{middle}{own_pid or pid}{end}"
            else:
                reports[child_id] = item
    reports.update(others)
    return reports
