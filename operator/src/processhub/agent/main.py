"""The agent's entry point: read the environment, start the watchdog while the process is small, then the rest."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from processhub.agent.enter import enter
from processhub.agent.env import Environment, EnvironmentProblem, read_environment
from processhub.agent.watchdog.client import WatchdogProcess
from processhub.agent.watchdog.linux import become_subreaper, reap_others

if TYPE_CHECKING:
    from processhub.agent.logs import LogSink
    from processhub.agent.parts import Surroundings
    from processhub.cluster.client import Client


_AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL is told to look for the system's authorities
_GC_OBJECTS = 20_000  # new objects, after which garbage is looked for among them


def main() -> int:
    """Run the console script ``processhub-agent``; returns the exit code.

    The codes are:

    - 0: shut down in order
    - 1: failed, see the log
    - 2: not run in a member's pod, or no API server is configured
    - 70: the watchdog ended
    - 75: another holder has the member's Lease
    - 76: etcd was restored to an earlier time

    ``processhub-agent exec …`` runs a command beside a child instead, and has its exit code.
    """
    if sys.argv[1:2] == ["exec"]:
        return enter(sys.argv[2:])
    try:
        env = read_environment(os.environ)
    except EnvironmentProblem as error:
        print(f"processhub-agent: {error}", file=sys.stderr)  # noqa: T201 there is no log yet
        return 2
    # If the watchdog is killed, its orphans become children of the agent, which can then end them.
    become_subreaper()
    nofile = _raise_nofile()
    watchdog = WatchdogProcess()
    reap_orphans(watchdog.process.pid)
    code = 1
    try:
        code = _serve(env, watchdog, nofile)
    finally:
        _end_all(watchdog)
        if code == 0:  # Otherwise the container is restarted, and continues with the restarts that are kept there.
            shutil.rmtree(env.run_dir, ignore_errors=True)  # this pod's own folder, which no process uses any more
        # Skip the interpreter's own clean-up: there is nothing to clean, and a thread might delay it.
        sys.stdout.flush()
        os._exit(code)


def _raise_nofile() -> tuple[int, int] | None:
    """Raise the soft limit of open files for the pipes, two for each child; returns the limits for children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return soft, hard
    return None


def _serve(env: Environment, watchdog: WatchdogProcess, nofile: tuple[int, int] | None) -> int:
    gc.disable()  # The imports leave no garbage, and looking for it would take a seventh of their time.
    import asyncio
    import logging

    import uvloop

    _import_aiohttp()
    from processhub.agent.app import Agent
    from processhub.agent.logs import JsonHandler, LogSink, PlainHandler
    from processhub.cluster.client import Client
    from processhub.cluster.config import ConfigError

    sink = LogSink()
    handler: logging.Handler = PlainHandler()
    if not sys.stderr.isatty():
        handler = json_handler = JsonHandler(sink, env.hub, env.member)
        json_handler.begin()
    logging.basicConfig(level=env.log_level, handlers=[handler])
    log = logging.getLogger(__name__)

    async def run() -> int:
        async with await Client.connect_in_pod() as client:
            agent = Agent(_surroundings(env, client, watchdog, nofile, sink))
            gc.freeze()
            # A request makes some hundred objects and hardly a cycle. By the default, looking for cycles after each few
            # requests took a tenth of the time.
            gc.set_threshold(_GC_OBJECTS, 20, 20)
            gc.enable()
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


def reap_orphans(watchdog: int) -> None:
    """Reap what comes to the first process of the container: what ``kubectl exec`` and ``kubectl hub exec`` leave.

    Each would keep its number, of which the container has not many, until the container ends.
    """
    signal.signal(signal.SIGCHLD, lambda *_: reap_others(watchdog))


def _import_aiohttp() -> None:
    """Import aiohttp without the system's certificate authorities, which take 2 MiB and 30 ms.

    When it is imported, it makes TLS contexts with them, for connections that name none. All connections of an agent
    with TLS name their own: the API server and other members are verified by the cluster's authorities.
    """
    kept = {name: os.environ.get(name) for name in _AUTHORITIES}
    os.environ.update(dict.fromkeys(_AUTHORITIES, os.devnull))
    try:
        import aiohttp  # noqa: F401
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _surroundings(
    env: Environment, client: Client, watchdog: WatchdogProcess, nofile: tuple[int, int] | None, sink: LogSink
) -> Surroundings:
    """The surroundings of an agent in a pod: threads, processes and connections."""
    from functools import partial

    from processhub.agent.children.launchers import launch_in_pod
    from processhub.agent.children.usage import Meter
    from processhub.agent.lease.keeper import LeaseKeeper
    from processhub.agent.parts import Surroundings
    from processhub.agent.peers.client import Peers
    from processhub.agent.requests.server import Server
    from processhub.agent.tls.identity import MemberTls
    from processhub.agent.watchdog.client import WatchdogClient
    from processhub.api.slice import Settings

    orders, tls = WatchdogClient(watchdog, nofile), MemberTls(env)
    return Surroundings(
        env=env,
        client=client,
        lease=LeaseKeeper(env, Settings(), watchdog.feed),
        peers=Peers(env, tls),
        tls=tls,
        watchdog=orders,
        launchers=launch_in_pod(env, client, orders, sink),
        meter=partial(Meter, orders.pid),
        server=Server,
        lines_dropped=lambda: sink.dropped,
    )


def _end_all(watchdog: WatchdogProcess) -> None:
    """Have the watchdog end all processes. If it has ended, end them here: nothing may outlive the agent."""
    from processhub.agent.watchdog.linux import end_all

    watchdog.socket.close()
    with contextlib.suppress(Exception):
        watchdog.process.wait(timeout=20)
    end_all(seconds=5)


if __name__ == "__main__":
    sys.exit(main())
