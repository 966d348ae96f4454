"""The supervision of one container over all of its runs: start, probes, hooks, restarts with back-off, stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from localcluster.kubelet import probes, runtime, status
from localcluster.kubelet.environment import ContainerConfigError, Json
from localcluster.kubelet.handlers import carry_out
from localcluster.kubelet.status import Record, Running, Terminated, Waiting
from processhub.cluster.errors import ApiError

_BACKOFF_MAX = 30.0  # a real kubelet's is 300 s and starts at 10 s: tests of restarts would take minutes
_BACKOFF_RESET = 60.0
_MIN_AFTER_HOOK = 2.0  # the time that a real kubelet leaves for a container whose preStop used up the grace period


class Supervisor:
    """Runs one container by its restart policy.

    ``make_spec(restarts)`` gives the spec of the next run; ``changed()`` is called at each change of ``record``,
    ``warn(reason, message)`` for a failure.
    """

    def __init__(
        self,
        record: Record,
        policy: str,
        pod_ip: str,
        grace: float,
        make_spec: Callable[[int], Awaitable[runtime.Spec]],
        changed: Callable[[], None],
        warn: Callable[[str, str], None],
    ) -> None:
        self.record = record
        self.run: runtime.Run | None = None
        self.started = asyncio.Event()  # once it was started and its startup probe, if any, succeeded
        self._policy, self._pod_ip, self._grace = policy, pod_ip, grace
        self._make_spec, self._changed, self._warn = make_spec, changed, warn

    async def supervise(self) -> None:
        """Run the container until its final end. If cancelled, the present run continues: end it with ``stop``."""
        streak = 0
        if isinstance(self.record.state, Terminated):  # of an earlier kubelet, or before the node went down
            if not status.restarts_after(self._policy, self.record.state.exit.code):
                return
            self._count_restart()
        while True:
            spec = await self._spec()
            run = self.run = runtime.start(spec)
            self.record.container_id = status.container_id(run.id)
            await run.started.wait()
            guard = asyncio.create_task(self._guard(run)) if run.pid else None
            try:
                outcome = await asyncio.shield(run.ended)
            finally:
                if guard is not None:
                    guard.cancel()
            self._mark_ended(run, outcome)
            if not run.pid:
                self._warn("Failed", f"Error: {outcome.message}")
            if not status.restarts_after(self._policy, outcome.code):
                return
            if outcome.at - run.started_at > _BACKOFF_RESET and run.pid:
                streak = 0
            await self._back_off(streak)
            streak += 1
            self._count_restart()

    async def stop(self, grace: float) -> None:
        """End the present run: preStop, SIGTERM, and SIGKILL after ``grace`` seconds."""
        if self.run is None:
            return
        await self._end(self.run, grace)
        self._mark_ended(self.run, self.run.ended.result())

    async def kill(self) -> None:
        """End the present run by SIGKILL; only the record shows it."""
        if self.run is not None:
            self.run.kill()
            self._mark_ended(self.run, await asyncio.shield(self.run.ended))

    def hurry(self, grace: float) -> None:
        """Send SIGKILL in ``grace`` seconds, also if an earlier ``stop`` set a longer time."""
        if self.run is not None:
            asyncio.get_running_loop().call_later(grace, self.run.kill)

    async def _spec(self) -> runtime.Spec:
        while True:
            try:
                return await self._make_spec(self.record.restarts)
            except (ContainerConfigError, ApiError, OSError) as error:
                self.record.state = Waiting("CreateContainerConfigError", str(error))
                self._warn("Failed", f"Error: {error}")
                self._changed()
                await asyncio.sleep(0.5)

    async def _back_off(self, streak: int) -> None:
        if streak == 0:
            return
        delay = min(_BACKOFF_MAX, 2.0 ** (streak - 1))
        assert isinstance(self.record.state, Terminated)
        self.record.last = self.record.state
        message = f"back-off {delay:g}s restarting failed container={self.record.name}"
        self.record.state = Waiting("CrashLoopBackOff", message)
        self._warn("BackOff", f"Back-off restarting failed container {self.record.name}")
        self._changed()
        await asyncio.sleep(delay)

    def _count_restart(self) -> None:
        if isinstance(self.record.state, Terminated):
            self.record.last = self.record.state
        self.record.restarts += 1

    def _mark_ended(self, run: runtime.Run, outcome: runtime.Exit) -> None:
        self.record.state = Terminated(run.started_at, outcome, status.container_id(run.id))
        self.record.ready = self.record.started = False
        self._changed()

    async def _end(self, run: runtime.Run, grace: float) -> None:
        begun = asyncio.get_running_loop().time()
        if run.alive and run.pid and (hook := (self.record.spec.get("lifecycle") or {}).get("preStop")):
            problem = await carry_out(hook, run, self.record.spec, self._pod_ip, grace)
            if problem:
                self._warn("FailedPreStopHook", problem)
            grace = max(_MIN_AFTER_HOOK, grace - (asyncio.get_running_loop().time() - begun))
        run.terminate()
        await asyncio.wait({run.ended}, timeout=grace)
        if run.alive:
            run.kill()
        await asyncio.shield(run.ended)

    async def _guard(self, run: runtime.Run) -> None:
        """Run hooks and probes while the run lasts."""
        spec = self.record.spec
        self.record.state = Running(run.started_at)
        self._changed()

        async def check(handler: Json, timeout: float) -> str | None:
            return await carry_out(handler, run, spec, self._pod_ip, timeout)

        if hook := (spec.get("lifecycle") or {}).get("postStart"):
            problem = await check(hook, 3600)
            if problem:
                await self._end_unhealthy(run, "PostStart", problem, spec)
                return
        if probe := spec.get("startupProbe"):
            problem = await probes.until_started(probe, check)
            if problem:
                await self._end_unhealthy(run, "Startup probe", problem, probe)
                return
        self.record.started = True
        self.started.set()
        self._tell_ready("readinessProbe" not in spec, None)
        self._changed()
        async with asyncio.TaskGroup() as group:
            if probe := spec.get("readinessProbe"):
                group.create_task(probes.follow_readiness(probe, check, self._tell_ready))
            if probe := spec.get("livenessProbe"):
                problem = await probes.until_dead(probe, check)
                await self._end_unhealthy(run, "Liveness probe", problem, probe)

    async def _end_unhealthy(self, run: runtime.Run, what: str, problem: str, probe: Json) -> None:
        self._warn("Unhealthy" if what != "PostStart" else "FailedPostStartHook", f"{what} failed: {problem}")
        with contextlib.suppress(asyncio.CancelledError):  # cancelled by the end that it causes
            await self._end(run, float(probe.get("terminationGracePeriodSeconds") or self._grace))

    def _tell_ready(self, ready: bool, problem: str | None) -> None:
        if ready != self.record.ready:
            self.record.ready = ready
            self._changed()
        if problem:
            self._warn("Unhealthy", f"Readiness probe failed: {problem}")
