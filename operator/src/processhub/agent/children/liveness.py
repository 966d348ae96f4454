"""The liveness probe of an exec child: a program that hangs while its process lives is restarted.

Every ``periodSeconds`` the child is asked by HTTP on its HUB_SOCKET, or a command is run beside it. After
``failureThreshold`` failures in a row the child is reported hanging, once, and the probe ends. As with a kubelet, a
probe that could not be made, because the member has no descriptors or processes left, says nothing of the child.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Callable, Mapping

import aiohttp

from processhub.agent.watchdog.client import WatchdogClient
from processhub.api.child import Liveness
from processhub.cluster.errors import reason_of

_NO_PROBE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
Outcome = str | None  # "" if the child lives, else a text about the failure; None: the probe could not be made


class CommandProbe:
    """One run of a probe's command. Nothing is raised."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def started(self, pid: int) -> None:
        """The exec took place."""

    def failed(self, what: str, number: int, text: str) -> None:
        """The command could not be started."""
        self._settle(None if what in ("fork", "fenced") else f"its command can't be run: {text}")

    def stuck(self, pid: int, user: int) -> None:
        """The kernel does not let the command be signalled."""
        self._settle(f"its command runs as user {user} and can't be ended")

    def exited(self, status: int, fenced: bool, memory: tuple[int, int] | None = None) -> None:
        """The command has ended."""
        self._settle("" if status == 0 else f"its command ended with {status}")

    def _settle(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class LivenessProbe:
    """The probe of one incarnation, from ``begin`` to ``end``. ``hangs(message)`` is called once."""

    def __init__(
        self,
        liveness: Liveness,
        socket: str,
        watchdog: WatchdogClient,
        env: Mapping[str, str],
        cwd: str,
        hangs: Callable[[str], None],
    ) -> None:
        self._liveness, self._socket, self._watchdog = liveness, socket, watchdog
        self._env, self._cwd, self._hangs = env, cwd, hangs
        self._task = asyncio.get_running_loop().create_task(self._run())

    def end(self) -> None:
        """End the probe."""
        self._task.cancel()

    async def _run(self) -> None:
        failures, limit = 0, self._liveness.failure_threshold
        while True:
            await asyncio.sleep(self._liveness.period_seconds)
            try:
                trouble = await (self._ask() if self._liveness.http else self._execute())
            except OSError:
                trouble = None
            if trouble is None:
                continue
            failures = failures + 1 if trouble else 0
            if failures >= limit:
                times = "once" if failures == 1 else f"{failures} times in a row"
                self._hangs(f"its liveness probe failed {times}: {trouble}")
                return

    async def _ask(self) -> Outcome:
        """Send a GET request on HUB_SOCKET; the statuses of a success are those of a kubelet's probe."""
        seconds = self._liveness.timeout_seconds
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(self._socket, force_close=True),
                    timeout=aiohttp.ClientTimeout(total=seconds),
                    cookie_jar=aiohttp.DummyCookieJar(),
                ) as session,
                session.get(f"http://child{self._liveness.http}", allow_redirects=False) as answer,
            ):
                return "" if 200 <= answer.status < 400 else f"GET {self._liveness.http} was answered {answer.status}"
        except TimeoutError:
            return f"GET {self._liveness.http} was not answered within {seconds} s"
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _NO_PROBE:
                return None
            return f"GET {self._liveness.http}: {reason_of(error)}"

    async def _execute(self) -> Outcome:
        """Run the command, which is to end with 0 in time. Raises OSError if no descriptors are left."""
        seconds, probe = self._liveness.timeout_seconds, CommandProbe()
        output = os.open(os.devnull, os.O_WRONLY)
        try:
            errors = os.dup(output)
        except OSError:
            os.close(output)
            raise
        key = self._watchdog.spawn(
            probe,
            list(self._liveness.command),
            dict(self._env),
            cwd=self._cwd,
            stop_signal=signal.SIGKILL,
            fds={1: output, 2: errors},
        )
        try:
            return await asyncio.wait_for(asyncio.shield(probe.outcome), seconds)
        except TimeoutError:
            return f"its command has not ended within {seconds} s"
        finally:
            if not probe.outcome.done():
                self._watchdog.stop(key, 0)
