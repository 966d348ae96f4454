"""Changes of a slice by which children only restart: they change no plan, and are reported without one."""

from __future__ import annotations

import msgspec

from processhub.api.slice import RegistrySlice
from processhub.registry.crashloops import only_restarts
from processhub.registry.grammar import EntryError, parse_report
from processhub.registry.workloads import is_pod_workload


def children_only_restart(old: RegistrySlice, new: RegistrySlice) -> bool:
    """Whether nothing but restarts of children differs, each of which has been up before.

    The first start of a child is more: its lifetime begins. A pod child's restart is more too: the operator makes its
    Pod.
    """
    before, after = old.status.reports, new.status.reports
    if (
        msgspec.structs.replace(old.metadata, resource_version=new.metadata.resource_version) != new.metadata
        or old.spec != new.spec
        or old.status.reporting({}) != new.status.reporting({})
        or before.keys() != after.keys()
        or any(map(is_pod_workload, new.spec.workloads.values()))
    ):
        return False
    changed = [(text, after[child_id]) for child_id, text in before.items() if after[child_id] != text]
    return all(_only_restarts(text, now) for text, now in changed)


def _only_restarts(before: str, after: str) -> bool:
    try:
        earlier, later = parse_report(before), parse_report(after)
    except EntryError:
        return False
    return bool(earlier.started_at) and only_restarts(earlier, later)
