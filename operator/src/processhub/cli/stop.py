"""``kubectl hub stop`` and ``await``."""

from __future__ import annotations

from processhub.api.naming import child_object_name
from processhub.cli.durations import seconds
from processhub.cli.output import named, out, quoted, structured
from processhub.cli.shared import Output, Target
from processhub.cli.show import objects_of
from processhub.cli.start import code_of, failures, report
from processhub.cli.target import opened
from processhub.client.errors import ChildrenFailed, Timeout
from processhub.client.hub import Hub


async def stop_children(ids: list[str], target: Target, *, wait: bool, timeout: str) -> int:
    """Stop children and print the outcome of each; returns the exit code."""
    limit = seconds(timeout)
    async with opened(target, ids=ids, follow=wait) as session:
        result = await Hub.attached(session).stop_children(ids, wait=wait, timeout=limit)
    if target.output in (Output.JSON, Output.YAML):
        errors = {
            child_id: {"reason": error.reason, "message": error.message} for child_id, error in result.errors.items()
        }
        again = [child_id for child_id in result.stopped if child_id in result.on_demand]
        demand = {"onDemand": again} if again else {}
        structured({"stopped": result.stopped, **demand, "errors": errors}, target.output)
    else:
        done = "stopped" if wait else "stopping"
        for child_id in result.stopped:
            if child_id in result.on_demand:
                text = f"{quoted(child_id)} {done}; the next request starts it again"
                out(f"hub/{session.name}" if target.output is Output.NAME else text)
                continue
            name = result.objects.get(child_id) or child_object_name(child_id)
            if target.output is Output.NAME:
                out(f"child/{name}")
            else:
                out(f"{named(child_id, name)} {done}")
    failures(result.errors, "stopped")
    return code_of(result.errors)


async def await_children(ids: list[str], target: Target, *, timeout: str) -> int:
    """Wait until all children run and print the outcome of each; returns the exit code."""
    limit = seconds(timeout)
    async with opened(target, ids=ids, follow=True) as session:
        try:
            result = await Hub.attached(session).wait_children(ids, timeout=limit)
        except (ChildrenFailed, Timeout) as error:
            if error.result is None:
                raise
            result = error.result
        objects = {child_id: f"hub/{session.name}" for child_id in ids if session.on_demand(child_id)}
        if target.output is Output.NAME:
            objects |= await objects_of(session, [child_id for child_id in result.started if child_id not in objects])
    return report(result, target.output, wait=True, objects=objects)
