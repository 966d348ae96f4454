"""Calls the ids 1 to 4 of hub caches twice and again after 5 s, and checks the answers.

    kubectl apply -f manifests/examples/40-choke-point.yaml
    python examples/choke-point/choke_point.py [namespace]

Exit code 0 if each id answered the same number from the same member twice, that member is the one of its number, and
another number came after its ttlSeconds.
"""

# ruff: noqa: T201 - the printed lines are its result

from __future__ import annotations

import asyncio
import sys
import time

from processhub import Hub

IDS = ("1", "2", "3", "4")
TTL_SECONDS = 5
PATIENCE_SECONDS = 20.0


async def ask(hub: Hub) -> dict[str, tuple[int, str]]:
    """Call all ids at once; returns the answer of each: its number and its member."""
    answers = await asyncio.gather(*(hub.call(child_id, {}) for child_id in IDS))
    return {child_id: (answer["value"], answer["member"]) for child_id, answer in zip(IDS, answers, strict=True)}


async def another(hub: Hub, child_id: str, number: int) -> tuple[int, str]:
    """Call the id until it answers with another number; returns that answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        answer = await hub.call(child_id, {})
        if answer["value"] != number:
            return answer["value"], answer["member"]
        await asyncio.sleep(0.1)
    raise SystemExit(f"{child_id} still answers {number}")


async def main(namespace: str | None) -> None:
    """Call, check and print."""
    async with Hub.connect("caches", namespace=namespace) as hub:
        members = sorted(hub.nodes())
        first, began = await ask(hub), time.monotonic()
        second = await ask(hub)
        for child_id, (number, member) in first.items():
            print(f"{child_id}: {number} from {member}")
            if second[child_id] != (number, member):
                raise SystemExit(f"{child_id} answered {second[child_id]} when it was asked again")
            if member != (expected := members[int(child_id) % len(members)]):
                raise SystemExit(f"{child_id} is on {member} and not on {expected}")
        print(f"the same when asked again; {TTL_SECONDS} s later:")
        await asyncio.sleep(max(0.0, TTL_SECONDS - (time.monotonic() - began)))
        for child_id, (number, _) in first.items():
            later, member = await another(hub, child_id, number)
            print(f"{child_id}: {later} from {member}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
