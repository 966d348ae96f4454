"""``kubectl hub plan``: what would move or be placed. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from processhub.api.child import ChildSpec
from processhub.api.hub import Hub
from processhub.api.naming import natural_order
from processhub.cli.errors import DONE, FAILED, UsageError
from processhub.cli.files import (
    check_kind,
    child_spec,
    documents,
    in_namespace,
    is_foreign,
    is_of_hub,
    named_object,
    set_specs,
)
from processhub.cli.output import in_order, out, say, structured, table
from processhub.cli.shared import Output, Target
from processhub.cli.whatif import Forecast, at_rest, changed, forecast, from_cluster, from_files
from processhub.client.errors import ChildError, InvalidChild
from processhub.client.specs import check_mapping, parse_child
from processhub.core.listing import by_reason, counted, listed


async def plan(target: Target, *, add: int, remove: tuple[str, ...], files: tuple[str, ...]) -> int:
    """Print what adding or removing members would do, or where the files' children would go; returns the exit code."""
    refused: dict[str, ChildError] = {}
    if files:
        hub, children = read_files(files, target.hub, target.namespace)
        good, refused = check_mapping({spec.id: spec for spec in (*hub.spec.children, *children)}, hub)
        snapshot = from_files(hub, good.values())
        if add or remove:
            snapshot = at_rest(snapshot)
    else:
        from processhub.cli.target import opened
        from processhub.client.resolve import list_children, list_sets
        from processhub.client.session import translated

        async with opened(target, members=remove) as session:
            hub = session.living_hub()
            with translated(f"children of hub {session.name} can't be listed"):
                children_there, sets = await list_children(session), await list_sets(session)
            snapshot = from_cluster(hub, session.registry.records, children_there, sets)
    members = {member.name for member in snapshot.members}
    for name in remove:
        if name not in members:
            there = ", ".join(sorted(members, key=natural_order)) or "none"
            raise UsageError(f"hub {hub.metadata.name} has no member {name!r} to remove; it has {there}")
    found = forecast(changed(snapshot, hub, add=add, remove=remove))
    for child_id, error in in_order(refused):
        say(f"error: child {child_id} would be refused: {error}")
    if target.output in (Output.JSON, Output.YAML):
        structured(plain(found), target.output)
    elif target.output is Output.NAME:
        for child_id in (*(move.id for move in found.moves), *found.placed):
            out(child_id)
    else:
        _print(found)
    return FAILED if refused else DONE


def read_files(paths: tuple[str, ...], name: str | None, namespace: str | None) -> tuple[Hub, list[ChildSpec]]:
    """The hub of the files and folders (the named one, if there are several) and its children.

    Objects of other kinds are named on stderr. Raises UsageError, InvalidChild.
    """
    hubs: dict[str, Hub] = {}
    children: list[ChildSpec] = []
    manifests = [manifest for path in paths for manifest in documents(path)]
    others = Counter(str(found["kind"]) for _, found in manifests if is_foreign(found))
    for where, found in in_namespace([each for each in manifests if not is_foreign(each[1])], namespace):
        kind = check_kind(where, found, "Hub", "Child", "ChildSet")
        if kind == "Hub":
            hub = named_object(where, found, Hub)
            hubs[hub.metadata.name] = hub
        elif kind == "ChildSet":
            children += set_specs(where, found)
        elif not is_of_hub(found):
            children.append(parse_child(child_spec(where, found), where))
    if others:
        kinds = listed([f"{kind} ({count})" for kind, count in sorted(others.items())])
        say(f"note: objects of other kinds are left out: {kinds}")
    if name is None and len(hubs) == 1:
        name = next(iter(hubs))
    if name is None or name not in hubs:
        there = ", ".join(sorted(hubs)) or "none"
        raise UsageError(f"the files need the Hub to plan for{f' ({name})' if name else ''}; they have {there}")
    chosen = hubs[name]
    mine = [spec for spec in children if spec.hub in ("", name)]
    ids = [spec.id for spec in (*chosen.spec.children, *mine)]
    if twice := sorted(child_id for child_id, count in Counter(ids).items() if count > 1):
        raise InvalidChild(f"the files have child {twice[0]!r} twice; an id is unique in its hub")
    return chosen, mine


def plain(found: Forecast) -> dict[str, Any]:
    """The forecast as plain data."""
    return {
        "moves": [{"id": move.id, "from": move.source, "to": move.target, "why": move.why} for move in found.moves],
        "placed": [
            {"id": child_id, "member": members[0], "members": members} for child_id, members in found.placed.items()
        ],
        "unplaced": [
            {"id": child_id, "reason": str(why.reason), "message": why.message}
            for child_id, why in in_order(found.unplaced)
        ],
        "stranded": {member: list(ids) for member, ids in found.stranded.items()},
        "strandedReasons": dict(in_order(found.why_stranded)),
        "members": {
            name: {"before": found.before.get(name, 0), "after": count} for name, count in in_order(found.after)
        },
    }


def _print(found: Forecast) -> None:
    if found.moves:
        table(("ID", "FROM", "TO", "WHY"), ((move.id, move.source, move.target, move.why) for move in found.moves))
        out("")
    if found.placed:
        table(("ID", "MEMBER"), ((child_id, ", ".join(members)) for child_id, members in found.placed.items()))
        out("")
    if found.unplaced:
        rows = ((child_id, str(why.reason), why.message) for child_id, why in in_order(found.unplaced))
        table(("NOT PLACED", "REASON", "MESSAGE"), rows)
        out("")
    table(
        ("MEMBER", "BEFORE", "AFTER"),
        ((name, str(found.before.get(name, 0)), str(count)) for name, count in in_order(found.after)),
    )
    share = f" ({100 * len(found.moves) / found.children:.1f} %)" if found.children else ""
    children = counted(found.children, "child", "children")
    moved = f"{counted(len(found.moves), 'moves', 'move', of=children)}{share}"
    out(f"\n{moved}, {counted(len(found.placed), 'is', 'are')} placed; nothing was changed")
    for member, ids in in_order(found.stranded):
        reasons = {child_id: found.why_stranded[child_id] for child_id in sorted(ids, key=natural_order)}
        say(f"warning: {counted(len(ids), 'child', 'children')} can't leave {member}: {by_reason(reasons)}")
