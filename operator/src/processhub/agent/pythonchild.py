"""Python children: actors in runner processes."""

from __future__ import annotations

import asyncio

from processhub.agent.child import Child, End, Handle
from processhub.agent.env import Environment
from processhub.agent.logs import LogSink
from processhub.agent.spawner import Spawner
from processhub.agent.sync import Wanted
from processhub.api.child import Python
from processhub.api.reasons import Reason


class PythonStarter:
    """Not there yet."""

    def __init__(self, env: Environment, spawner: Spawner, sink: LogSink) -> None:
        self._env, self._spawner, self._sink = env, spawner, sink

    def warm(self) -> None:
        """Nothing to warm yet."""

    def launch(self, child: Child, wanted: Wanted, workload: Python) -> Handle:
        """Refuse it."""
        asyncio.get_running_loop().call_soon(child.ended, End(Reason.NOT_SUPPORTED_YET, "not started"))

        class Nothing:
            def stop(self, grace: float) -> None: ...
            def role(self, role: str) -> None: ...

        return Nothing()
