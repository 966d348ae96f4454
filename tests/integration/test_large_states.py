"""Handovers of large states: streamed completely up to 64 MiB, rejected above that."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path

from operatorworld import Place, World
from settling import settles

pytest_plugins = ("operatorworld",)
MIB = 2**20
# Hands over this many random bytes, and writes the checksums of the state that it leaves and finds.
SCRIPT = """
sums={folder}/$HUB_MEMBER
[ -s "$HUB_HANDOVER_FILE" ] && sha256sum < "$HUB_HANDOVER_FILE" > $sums.found
trap 'head -c {size} /dev/urandom > "$HUB_HANDOVER_FILE"; sha256sum < "$HUB_HANDOVER_FILE" > $sums.left; exit 0' TERM
touch {folder}/traps
while :; do sleep 0.1; done
"""


async def on_the_first(world: World, folder: Path, size: int) -> Place:
    """Start a child with a state of this size on hub-0 of two members."""
    migration = {"strategy": "HotSwap", "handoverTimeoutSeconds": 60}
    await world.hub(members={"replicas": 2, "weights": {"hub-1": 0}}, migration=migration, timeouts={"stopSeconds": 30})
    await world.child("large", command=["sh", "-c", SCRIPT.format(folder=folder, size=size)])
    place = (await world.running(["large"]))["large"]
    assert place.member == "hub-0"

    async def traps() -> None:
        assert (folder / "traps").exists()

    await settles(traps)
    return place


async def ordered_to_the_second(world: World) -> None:
    await world.edit_hub(members={"weights": {"hub-0": 0, "hub-1": 1}})


def sums(folder: Path, name: str) -> str:
    """Return the checksums, "" while there are none."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / name).read_text()
    return ""


def peaks(world: World) -> dict[str, int]:
    """Return the peak resident memory (bytes) of each member's agent, by member."""
    found: dict[str, int] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if b"processhub-agent" not in (process / "cmdline").read_bytes():
                continue
            environment = (process / "environ").read_bytes().decode().split("\0")
            if f"HUB_NAMESPACE={world.namespace}" not in environment:
                continue
            member = next(text.partition("=")[2] for text in environment if text.startswith("HUB_MEMBER="))
            peak = re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text())
            found[member] = max(found.get(member, 0), int(peak[1]) * 1024 if peak else 0)
    return found


async def test_a_state_of_64_mib_arrives_complete_and_takes_little_memory(world: World, tmp_path: Path) -> None:
    await on_the_first(world, tmp_path, 64 * MIB)
    before = await asyncio.to_thread(peaks, world)
    assert before.keys() == {"hub-0", "hub-1"}

    await ordered_to_the_second(world)

    async def moved() -> None:
        assert (await world.running(["large"]))["large"].member == "hub-1"
        assert sums(tmp_path, "hub-1.found") == sums(tmp_path, "hub-0.left") != ""

    await settles(moved, within=60)
    after = await asyncio.to_thread(peaks, world)
    assert {member: peak for member, peak in after.items() if peak > before[member] + 32 * MIB} == {}


async def test_a_larger_state_is_rejected_and_stays_with_its_child(world: World, tmp_path: Path) -> None:
    before = await on_the_first(world, tmp_path, 65 * MIB)

    await ordered_to_the_second(world)

    async def reported() -> None:
        assert await world.events("large", "MoveDeferred") == [
            f"stays on hub-0 instead of moving to hub-1: its state has {65 * MIB} bytes, the limit is {64 * MIB}"
        ]

    await settles(reported, within=60)

    async def back() -> None:
        place = (await world.running(["large"]))["large"]
        assert place.member == "hub-0"
        assert place.epoch > before.epoch
        assert sums(tmp_path, "hub-0.found") == sums(tmp_path, "hub-0.left") != ""

    await settles(back)
