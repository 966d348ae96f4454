"""Moves that carry the state over, on real members: counters must never start again and never count twice."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path

from operatorworld import Place, World, members_of, moved
from settling import settles

pytest_plugins = ("operatorworld",)
IDS = [f"c{number}" for number in range(24)]
HOT = {"strategy": "HotSwap"}
UNHURRIED = {"stopSeconds": 20}  # a killed process leaves no state
# Sizes of states that travel in messages and in files.
SIZES = (0, 20_000)
# Counts and writes rows [boottime, id, member, epoch, count]. Ids in "unwilling" refuse to move.
MODULE = """
import asyncio, json, os, time
from processhub import Actor

class Keeper(Actor):
    async def init(self, args):
        sizes = args["sizes"]
        self.folder, self.state = args["folder"], {"count": 0, "blob": "x" * sizes[int(self.id[1:]) % len(sizes)]}
        self.task = asyncio.get_running_loop().create_task(self.count())

    async def count(self):
        while True:
            self.state["count"] += 1
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            row = json.dumps([now, self.id, self.member, self.epoch, self.state["count"]])
            with open(os.path.join(self.folder, self.member + "-" + str(os.getpid())), "a") as file:
                file.write(row + "\\n")
            await asyncio.sleep(0.05)

    async def can_migrate(self):
        return not os.path.exists(os.path.join(self.folder, "..", "unwilling"))

    async def prepare_handover(self):
        self.task.cancel()
        return self.state
"""
# The same as a shell program: its state is a line in HUB_HANDOVER_FILE.
SCRIPT = """
count=0
[ -s "$HUB_HANDOVER_FILE" ] && count=$(cat "$HUB_HANDOVER_FILE")
trap 'told=1' TERM
while [ -z "$told" ]; do
    count=$((count + 1))
    echo "[0, \\"$HUB_CHILD_ID\\", \\"$HUB_MEMBER\\", $HUB_EPOCH, $count]" >> {0}/$HUB_CHILD_ID
    sleep 0.1
done
echo $count > "$HUB_HANDOVER_FILE"
"""
# Ends when it finds the state that it left, so its Running is rarely seen.
ONE_LAST_STEP = """
[ -s "$HUB_HANDOVER_FILE" ] && exit 0
trap 'echo done > "$HUB_HANDOVER_FILE"; exit 0' TERM
while :; do sleep 0.1; done
"""


def counts(folder: Path) -> dict[str, list[tuple[int, int, str]]]:
    """Return the rows (epoch, count, member) of each id, by epoch and count."""
    rows = defaultdict(list)
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            if line.endswith("]"):
                _, child_id, member, epoch, count = json.loads(line)
                rows[child_id].append((epoch, count, member))
    return {child_id: sorted(found) for child_id, found in rows.items()}


def assert_states_went_along(folder: Path, ids: list[str]) -> None:
    """Assert that over all epochs each count follows the one before: none started again and none was made twice."""
    found = counts(folder)
    assert set(ids) <= found.keys()
    for child_id, rows in found.items():
        numbers = [count for _, count, _ in rows]
        assert numbers == list(range(1, len(numbers) + 1)), (child_id, rows)


async def keepers(world: World, folder: Path, *sizes: int, replicas: int = 3) -> dict[str, Place]:
    folder.mkdir()  # noqa: ASYNC240 a folder of the test
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "code"},
        "data": {"keeper.py": MODULE},
    }
    await world.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    members = {"replicas": replicas, "python": {"configMap": "code"}}
    await world.hub(members=members, migration=HOT, timeouts=UNHURRIED)
    await world.children(
        IDS, python={"target": "keeper:Keeper", "args": {"folder": str(folder), "sizes": sizes or SIZES}}
    )
    return await all_running(world)


async def all_running(world: World) -> dict[str, Place]:
    """Return where the ids run, once each is recorded once and reported Running."""

    async def check() -> dict[str, Place]:
        record = await world.record()
        assert record.keys() == set(IDS)
        places: dict[str, Place] = {}
        for child_id, found in record.items():
            assert [place.state for place in found] == ["Running"], (child_id, found)
            places[child_id] = found[0]
        return places

    return await settles(check, within=90)


async def test_states_move_along_on_joins_and_scale_downs(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    before = await keepers(world, folder)

    await world.edit_hub(members={"replicas": 4})

    async def joined() -> dict[str, Place]:
        after = await all_running(world)
        assert members_of(after)["hub-3"]
        return after

    after = await settles(joined)
    assert all(after[child_id].member == "hub-3" for child_id in moved(before, after))
    await world.edit_hub(members={"replicas": 2})

    async def left() -> None:
        assert members_of(await all_running(world)).keys() == {"hub-0", "hub-1"}

    await settles(left, within=90)
    assert_states_went_along(folder, IDS)


async def test_a_pod_that_is_deleted_hands_its_children_over_before_it_ends(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    before = await keepers(world, folder)
    member = members_of(before).most_common(1)[0][0]
    uid = before and (await world.pod(member)).metadata.uid

    await world.kubectl("delete", "pod", member, "--wait=false")

    async def replaced() -> None:
        assert (await world.pod(member)).metadata.uid != uid

    await settles(replaced, within=60)
    await world.hub_ready()
    await all_running(world)
    assert_states_went_along(folder, IDS)
    assert len({member for rows in counts(folder).values() for *_, member in rows}) == 3


async def test_exec_children_find_the_state_that_they_left(world: World, tmp_path: Path) -> None:
    ids = IDS[:6]
    await world.hub(members={"replicas": 2}, migration=HOT, timeouts=UNHURRIED)
    await world.children(ids, command=["sh", "-c", SCRIPT.format(tmp_path)])
    await world.running(ids)

    await world.edit_hub(members={"replicas": 1})

    async def left() -> None:
        assert members_of(await world.running(ids)).keys() == {"hub-0"}

    await settles(left)
    assert_states_went_along(tmp_path, ids)


async def test_the_source_keeps_no_state_of_children_that_end_at_once_after_a_handover(
    world: World,
) -> None:
    ids = IDS[:12]
    await world.hub(members={"replicas": 2}, migration=HOT)
    await world.children(ids, exec={"command": ["sh", "-c", ONE_LAST_STEP]}, restartPolicy="Transient")
    await world.running(ids)

    await world.edit_hub(members={"replicas": 1})

    async def left() -> None:
        record = await world.record()
        assert {child_id: [place.member for place in found] for child_id, found in record.items()} == {
            child_id: ["hub-0"] for child_id in ids
        }
        assert {found[0].state for found in record.values()} == {"Running", "Stopped"}
        assert len(await world.slices()) == 1, "the member that was emptied is gone"

    await settles(left)


async def test_a_child_that_refuses_to_move_stays_until_its_member_is_drained(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    (tmp_path / "unwilling").touch()
    before = await keepers(world, folder)

    await world.edit_hub(members={"replicas": 4})
    await world.hub_ready(members=4)

    async def put_off() -> None:
        record = await world.record()
        assert all(len(found) == 1 and found[0].state == "Running" for found in record.values())
        assert {child_id: found[0].member for child_id, found in record.items()} == {
            child_id: place.member for child_id, place in before.items()
        }
        assert any(found[0].epoch > before[child_id].epoch for child_id, found in record.items())

    await settles(put_off)
    await world.edit_hub(members={"replicas": 2})

    async def left() -> None:
        assert members_of(await all_running(world)).keys() == {"hub-0", "hub-1"}

    await settles(left, within=90)
    assert_states_went_along(folder, IDS)


async def test_killing_members_during_handovers_loses_no_state_that_another_member_has(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "rows"
    before = await keepers(world, folder, 200_000)
    await world.edit_hub(members={"replicas": 4})

    async def begun() -> None:
        record = await world.record()
        assert any(place.member == "hub-3" for found in record.values() for place in found)

    await settles(begun)
    await world.kill_agent("hub-3")
    await asyncio.gather(world.hub_ready(members=4))
    await all_running(world)

    # Children of the killed member started afresh; children that were on their way did not.
    found = counts(folder)
    for child_id in IDS:
        rows = found[child_id]
        ran_there = any(member == "hub-3" for *_, member in rows)
        numbers = [count for _, count, _ in rows]
        assert ran_there or numbers == list(range(1, len(numbers) + 1)), (child_id, rows)
    assert set(before) == set(IDS)
