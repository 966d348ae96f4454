"""The demo's story, chapter by chapter. Each chapter checks its claims and raises NotAsToldError if one fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable

from demo.ground import NAMESPACE, Ground
from demo.stage import NotAsToldError, Stage
from demo.watching import Places, Watch, by_member, fullest, watching

_FILES = "-f 01-hub.yaml -f 02-children.yaml -f 03-guided.yaml -f 04-on-restart-move.yaml"
_BASH_HERE = """kubectl -n demo apply -f - <<YAML
apiVersion: processhub.dev/v1alpha1
kind: Child
metadata: {name: nowhere}
spec:
  hub: guided
  exec: {command: [sleep, infinity]}
YAML"""


class Story:
    """The chapters, in order. ``ground`` has the operator installed."""

    def __init__(self, stage: Stage, ground: Ground) -> None:
        self._stage, self._ground = stage, ground

    async def tell(self) -> None:
        """Run all chapters. Raises NotAsToldError."""
        await self.apply()
        async with self._watching("my-hub") as hub, self._watching("mover") as mover:
            await self.registry(hub)
            await self.kill_with_move(mover)
            await self.kill_with_hold(hub)
            await self.scale(hub)
        await self.without_mapping()

    def _watching(self, hub: str) -> contextlib.AbstractAsyncContextManager[Watch]:
        return watching(hub, NAMESPACE, self._ground.environment["KUBECONFIG"])

    async def apply(self) -> None:
        """Apply hubs and children from manifests."""
        stage = self._stage
        stage.chapter("Hubs and children from plain manifests")
        await stage.run(f"cd manifests/examples && kubectl -n {NAMESPACE} apply {_FILES}", head=4)
        await stage.run(f"kubectl -n {NAMESPACE} wait hub,child --all --for=condition=Ready --timeout=60s", head=3)
        await stage.run(f"kubectl -n {NAMESPACE} get hubs,pods")
        stage.means("Three hubs. A hub is a StatefulSet of member pods; its children are processes inside them.")

    async def registry(self, hub: Watch) -> None:
        """Place 12 children by consistent hashing and 2 guided ones, and ask where they run."""
        stage = self._stage
        stage.chapter("Who runs where: the registry")
        await stage.run(f"kubectl -n {NAMESPACE} get children --field-selector spec.hub=my-hub")
        await stage.run(f"kubectl -n {NAMESPACE} get children --field-selector spec.hub=guided")
        places = hub.places()
        _check(len(places) == 12, f"12 children of my-hub should run, {len(places)} do")
        await self._check_alive(hub, places)
        guided = json.loads(await stage.quietly(f"kubectl hub dump --hub guided -n {NAMESPACE}"))
        at = {child_id: [node["name"] for node in found["nodes"]] for child_id, found in guided.items()}
        _check(at == {"guided-a": ["guided-0"], "guided-b": ["guided-2"]}, f"the guided children are at {at}")
        counts = ", ".join(f"{len(ids)} on {member}" for member, ids in by_member(places).items())
        _check(max(map(len, by_member(places).values())) <= 5, f"a member is above loadCapPercent: {counts}")
        stage.means(
            f"The 12 workers went where the hashes of their ids say, no member above its cap of 5 ({counts}); "
            "the two guided ones are on the members that their spec.nodes name."
        )
        output = await stage.run(f"kubectl hub where worker-7 -n {NAMESPACE}")
        place = places["worker-7"]
        _check(place.member in output and str(place.pid) in output, "`where` differs from the slices")
        stage.means(
            f"One look-up names member, node and pid. The pid is real: {self._ground.process(place.member, place.pid)}"
        )

    async def kill_with_move(self, mover: Watch) -> None:
        """Kill a member of a hub with onRestart: Move by SIGKILL."""
        stage = self._stage
        stage.chapter("kill -9 a member; its hub says onRestart: Move")
        await stage.run(f"kubectl hub list --hub mover -n {NAMESPACE}")
        before = mover.places()
        victim, ids = fullest(before)
        others = {child_id: place for child_id, place in before.items() if child_id not in ids}

        def moved(now: Places) -> bool:
            return all(child_id in now and now[child_id].member != victim for child_id in ids)

        took = await self._kill(mover, victim, moved, f"the children of {victim} run elsewhere")
        after = mover.places()
        await self._check_alive(mover, after)
        stayed = {child_id: place for child_id, place in after.items() if child_id in others}
        _check(stayed == others, f"the others should have stayed as they were: {others}, now {stayed}")
        went = "; ".join(f"{child_id} to {after[child_id].member}" for child_id in ids)
        stage.means(
            f"{took:.0f} ms after the kill the registry was right again: {went}. The other {len(others)} kept "
            "member, process and epoch."
        )
        again = await self._share_again(mover, victim, ids)
        now = mover.places()
        _check(all(now.get(child_id) == place for child_id, place in others.items()), f"a join moved others: {now}")
        await self._until_events(f"involvedObject.name={ids[0]},reason=Moved", 2)
        await stage.run(f"kubectl hub explain {ids[0]} -n {NAMESPACE}")
        stage.means(
            f"{victim} came back and took {again} again: a member that joins gets its share, and nothing else moves."
        )

    async def kill_with_hold(self, hub: Watch) -> None:
        """Kill a member of a hub with Hold, the default, by SIGKILL."""
        stage = self._stage
        stage.chapter("kill -9 a member; its hub has the default, onRestart: Hold")
        before = hub.places()
        victim, ids = fullest(before)
        await stage.run(f"kubectl hub list --member {victim} -n {NAMESPACE}")

        def back(now: Places) -> bool:
            return all(
                child_id in now and now[child_id].member == victim and now[child_id].pid != before[child_id].pid
                for child_id in ids
            )

        took = await self._kill(hub, victim, back, f"the children of {victim} run again on it")
        after = hub.places()
        await self._check_alive(hub, after)
        others = {child_id: place for child_id, place in before.items() if child_id not in ids}
        stayed = {child_id: place for child_id, place in after.items() if child_id in others}
        _check(stayed == others, f"the others should have stayed as they were: {others}, now {stayed}")
        await stage.run(f"kubectl hub list --member {victim} -n {NAMESPACE}")
        stage.means(
            f"{took:.0f} ms after the kill all {len(ids)} ran again in place, with new pids: a member that restarts "
            "within holdSeconds (30) moves nothing."
        )

    async def scale(self, hub: Watch) -> None:
        """Add a fourth member."""
        stage = self._stage
        stage.chapter("Scale from 3 to 4: first show what would move, then do it")
        plan = f"kubectl hub plan --add 1 --hub my-hub -n {NAMESPACE}"
        foretold = json.loads(await stage.quietly(f"{plan} -o json"))
        await stage.run(plan)
        expected = {move["id"]: move["to"] for move in foretold["moves"]}
        before, begun = hub.places(), time.perf_counter()
        await stage.run(f"kubectl -n {NAMESPACE} scale hub/my-hub --replicas=4")

        def settled(now: Places) -> bool:
            return len(now) == len(before) and expected.keys() <= _moved(before, now).keys()

        took = await hub.until(settled, "the fourth member has its share", since=begun, within=60)
        await stage.run(f"kubectl -n {NAMESPACE} wait hub/my-hub --for=jsonpath='{{.status.summary.members}}'=4/4")
        await stage.run(f"kubectl hub members --hub my-hub -n {NAMESPACE}")
        after = hub.places()
        moved = _moved(before, after)
        _check(moved == expected, f"the plan predicted {expected}, but this moved: {moved}")
        _check(set(moved.values()) <= {"my-hub-3"}, f"children moved elsewhere than onto my-hub-3: {moved}")
        kept = {child_id: place for child_id, place in before.items() if child_id not in moved}
        _check(all(after[child_id] == place for child_id, place in kept.items()), "a child that stayed was restarted")
        share = len(before) / 4
        stage.means(
            f"{len(moved)} of {len(before)} moved, all to my-hub-3, exactly those that the plan named "
            f"(an even share is {share:g}); the other {len(kept)} kept running. The registry was right "
            f"{took / 1000:.1f} s after the command, including the new pod's start."
        )

    async def without_mapping(self) -> None:
        """Create a guided child that names no member."""
        stage = self._stage
        stage.chapter("A mistake: a child of a Guided hub that names no member")
        await stage.run(_BASH_HERE)
        get = f"kubectl -n {NAMESPACE} get child nowhere"
        await stage.quietly(f"kubectl -n {NAMESPACE} wait child/nowhere --for=condition=Accepted=false --timeout=20s")
        await stage.run(get)
        said = await stage.run(f"kubectl hub where nowhere -n {NAMESPACE}", fails=True)
        _check("spec.nodes" in said, "the message should name spec.nodes")
        refused = await stage.run(
            f"kubectl hub start nowhere-2 --hub guided -n {NAMESPACE} --exec -- sleep 60", fails=True
        )
        _check("nowhere-2" in refused, "the refusal should name the child")
        stage.means("The object names what is missing and what to write; the command line rejects it before it writes.")

    async def _check_alive(self, watch: Watch, places: Places) -> None:
        for child_id, place in places.items():
            try:
                await asyncio.to_thread(self._ground.process, place.member, place.pid)
            except NotAsToldError:
                if watch.places().get(child_id) == place:
                    raise
                # The child has moved since: a member that is back takes its share.

    async def _kill(self, watch: Watch, member: str, right: Callable[[Places], bool], what: str) -> float:
        command, kill = await self._ground.main_process(member)
        self._stage.type(f"{command}   # the main process of pod {member}; its children end with it")
        begun = time.perf_counter()
        kill()
        return await watch.until(right, what, since=begun, within=45)

    async def _share_again(self, watch: Watch, member: str, ids: list[str]) -> str:
        """Wait until the returned member has its children; returns a text that names them.

        Children that were there only because of the load cap stay where they are now.
        """

        def returned(now: Places) -> list[str]:
            return [child_id for child_id in ids if child_id in now and now[child_id].member == member]

        begun = time.perf_counter()
        try:
            await watch.until(lambda now: returned(now) == ids, "", since=begun, within=10)
        except NotAsToldError:
            some = returned(watch.places())
            _check(bool(some), f"{member} got none of {ids} again; the registry says {watch.places()}")
            return f"{len(some)} of these {len(ids)}"
        return f"exactly these {len(ids)}"

    async def _until_events(self, selector: str, count: int) -> None:
        """Wait until so many Events exist, because Events are posted after the fact."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = await self._stage.quietly(f"kubectl -n {NAMESPACE} get events --field-selector {selector} -o name")
            if len(found.split()) >= count:
                return
            await asyncio.sleep(0.2)


def _moved(before: Places, after: Places) -> dict[str, str]:
    """The new member of each child whose member has changed."""
    return {
        child_id: place.member
        for child_id, place in after.items()
        if child_id in before and place.member != before[child_id].member
    }


def _check(good: bool, otherwise: str) -> None:
    if not good:
        raise NotAsToldError(otherwise)
