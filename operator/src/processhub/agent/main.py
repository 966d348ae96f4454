"""The agent's entry: read the environment, start the watchdog while the process is small, then everything else."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from processhub.agent.env import Environment, EnvironmentProblem, read_environment
from processhub.agent.watchdog.client import WatchdogProcess
from processhub.agent.watchdog.linux import become_subreaper

if TYPE_CHECKING:
    from processhub.agent.logs import LogSink
    from processhub.agent.parts import Surroundings
    from processhub.cluster.client import Client


def main() -> int:
    """The console script ``processhub-agent``; returns the exit code.

    0: ended in order; 1: failed, see the log; 2: not run in a member's pod; 70: the watchdog ended; 75: another holds
    the member's Lease.
    """
    try:
        env = read_environment(os.environ)
    except EnvironmentProblem as error:
        print(f"processhub-agent: {error}", file=sys.stderr)  # noqa: T201 there is no log yet
        return 2
    # Should the watchdog be killed, its orphans come to the agent and not out of its sight.
    become_subreaper()
    nofile = _raise_nofile()
    watchdog = WatchdogProcess()
    code = 1
    try:
        code = _serve(env, watchdog, nofile)
    finally:
        _end_all(watchdog)
        shutil.rmtree(env.run_dir, ignore_errors=True)  # this pod's own; nobody is left to use it
        # Without the interpreter's own clean-up: nothing is left to clean, and no thread may hold it up.
        sys.stdout.flush()
        os._exit(code)


def _raise_nofile() -> tuple[int, int] | None:
    """Two pipes a child: raise the soft limit; returns the one that children are to have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return soft, hard
    return None


def _serve(env: Environment, watchdog: WatchdogProcess, nofile: tuple[int, int] | None) -> int:
    import asyncio
    import logging

    import uvloop

    from processhub.agent.app import Agent
    from processhub.agent.logs import JsonHandler, LogSink, PlainHandler
    from processhub.cluster.client import Client
    from processhub.cluster.config import ConfigError

    sink = LogSink()
    handler = PlainHandler() if sys.stderr.isatty() else JsonHandler(sink, env.hub, env.member)
    logging.basicConfig(level=env.log_level, handlers=[handler])
    log = logging.getLogger(__name__)

    async def run() -> int:
        async with await Client.connect() as client:
            agent = Agent(_surroundings(env, client, watchdog, nofile, sink))
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, agent.terminate)
            return await agent.run()

    try:
        return uvloop.run(run())
    except ConfigError as error:
        log.error("%s", error)
        return 2
    except Exception:
        log.exception("the agent failed")
        return 1
    finally:
        sink.close()


def _surroundings(
    env: Environment, client: Client, watchdog: WatchdogProcess, nofile: tuple[int, int] | None, sink: LogSink
) -> Surroundings:
    """What an agent is built upon in a pod: threads, processes and connections."""
    from functools import partial

    from processhub.agent.children.launchers import launch_in_pod
    from processhub.agent.children.usage import Meter
    from processhub.agent.lease import LeaseKeeper
    from processhub.agent.parts import Surroundings
    from processhub.agent.peers.client import Peers
    from processhub.agent.requests.server import Server
    from processhub.agent.watchdog.client import WatchdogClient
    from processhub.api.slice import Settings

    orders = WatchdogClient(watchdog, nofile)
    return Surroundings(
        env=env,
        client=client,
        lease=LeaseKeeper(env, Settings(), watchdog.feed),
        peers=Peers(env),
        watchdog=orders,
        launchers=launch_in_pod(env, client, orders, sink),
        meter=partial(Meter, orders.pid),
        server=Server,
        lines_dropped=lambda: sink.dropped,
    )


def _end_all(watchdog: WatchdogProcess) -> None:
    """Let the watchdog end what is left; if it is gone, end it here: nothing outlives the agent."""
    from processhub.agent.watchdog.linux import end_all

    watchdog.socket.close()
    with contextlib.suppress(Exception):
        watchdog.process.wait(timeout=20)
    end_all(seconds=5)


if __name__ == "__main__":
    sys.exit(main())
