"""Python handlers of hooks: which there are, and that a Hub can name no other function."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from waiting import until

from processhub import extensions
from processhub.api.hooks import PythonHandler
from processhub.api.hub import HubSpec
from processhub.api.reasons import Reason
from processhub.controller.hooks.handlers import LEFT_BEHIND, Handlers
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.webhook import HookError
from processhub.controller.store.hubstate import HubKey
from processhub.examples import enrich

DEADLINE = 40.0

_POINTS = """
[processhub.hooks]
note = my_hooks:note
Nowhere = no_such_module:f
Broken = broken_hooks:f
Text = my_hooks:WORD
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install a package of handlers: one that works, and three that can't be used."""
    monkeypatch.syspath_prepend(tmp_path)
    installed = tmp_path / "my_hooks-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-hooks\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(_POINTS)
    (tmp_path / "my_hooks.py").write_text(
        "WORD = 'word'\n\ndef note(event, args):\n    return {'tags': args['tags']}\n\ndef unnamed(event, args): ...\n"
    )
    (tmp_path / "broken_hooks.py").write_text("raise RuntimeError('this module fails')\n")
    (tmp_path / "beside.py").write_text("raise SystemExit('imported')\n")
    extensions.hook_handlers.cache_clear()
    yield tmp_path
    extensions.hook_handlers.cache_clear()


def spec(handler: str) -> HubSpec:
    hook = {"name": "a", "event": "ChildStarted", "python": {"handler": handler}}
    return msgspec.convert({"hooks": [hook]}, HubSpec)


@pytest.mark.usefixtures("folder")
def test_a_handler_is_an_entry_point_by_its_name() -> None:
    handlers = Handlers()

    assert handlers.refusal(spec("note")) is None
    assert handlers.refusal(spec("enrich")) is None, "ProcessHub's own"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "handler",
    [
        "kopf:configure",
        "click._termui_impl:_pipepager",
        "kopf._cogs.helpers.loaders:preload",
        "processhub.controller.objects.template:merge",
        "processhub.examples:enrich",
        "os:remove",
        "my_hooks:note",
        "my_hooks:unnamed",
        "my_hooks",
        "beside:f",
        "unnamed",
        "WORD",
        "__class__",
        "",
    ],
)
def test_a_name_that_is_no_entry_point_is_rejected_with_the_known_names_and_not_imported(handler: str) -> None:
    level, logger = logging.getLogger().level, list(logging.getLogger().handlers)

    refusal = Handlers().refusal(spec(handler))

    assert refusal is not None
    assert refusal.reason is Reason.INVALID
    assert refusal.message == (
        f"spec.hooks 'a': python.handler {handler!r} is not known; there are enrich, note (entry points of the group "
        "processhub.hooks in the operator's image)"
    )
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, logger)
    assert "beside" not in sys.modules


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("Nowhere", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("Broken", "RuntimeError: this module fails"),
        ("Text", "TypeError: my_hooks:WORD is not a function"),
    ],
)
def test_a_failing_entry_point_has_a_reason_and_the_others_work(handler: str, why: str) -> None:
    handlers = Handlers()
    refusal = handlers.refusal(spec(handler))

    assert refusal is not None
    assert refusal.message == f"spec.hooks 'a': python.handler {handler!r}: its entry point can't be used: {why}"
    assert handlers.refusal(spec("note")) is None


def test_without_any_handler_the_rejection_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    none: Any = extensions.Loaded({}, {})
    monkeypatch.setattr("processhub.controller.hooks.handlers.hook_handlers", lambda: none)

    refusal = Handlers().refusal(spec("note"))

    assert refusal is not None
    assert refusal.message == (
        "spec.hooks 'a': python.handler 'note' is not known; there are none (entry points of the group "
        "processhub.hooks in the operator's image)"
    )


HUB: HubKey = ("ns", "hub")
EVENT = CloudEventText("1", {}, b'{"data": {"metadata": {"k": "v"}}}')


@pytest.fixture
def calling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Handlers]:
    """Makes handlers of functions, by name."""

    def make(**functions: Any) -> Handlers:
        loaded: Any = extensions.Loaded(functions, {})
        monkeypatch.setattr("processhub.controller.hooks.handlers.hook_handlers", lambda: loaded)
        return Handlers()

    return make


async def test_a_handler_gets_the_event_and_its_arguments_and_returns_the_verdict(
    calling: Callable[..., Handlers],
) -> None:
    async def later(event: Any, args: Any) -> Any:
        return {"later": args}

    handlers = calling(enrich=enrich, later=later)
    args = {"require": ["k"], "metadata": {"a": "b"}}

    assert await handlers.call(HUB, PythonHandler(handler="enrich", args=args), EVENT) == {
        "metadata": {"a": "b"},
        "tags": [],
    }
    assert await handlers.call(HUB, PythonHandler(handler="enrich", args={"require": ["x"]}), EVENT) == {
        "allow": False,
        "reason": "the child's metadata lack x",
    }
    assert await handlers.call(HUB, PythonHandler(handler="later", args={"x": 1}), EVENT) == {"later": {"x": 1}}


async def test_a_handler_that_raises_or_exits_is_an_error_of_its_hook(calling: Callable[..., Handlers]) -> None:
    def fail(event: Any, args: Any) -> Any:
        raise KeyError("k")

    def leave(event: Any, args: Any) -> Any:
        sys.exit(1)

    handlers = calling(fail=fail, leave=leave)

    with pytest.raises(HookError, match="KeyError: 'k'"):
        await handlers.call(HUB, PythonHandler(handler="fail"), EVENT)
    with pytest.raises(HookError, match="HandlerError: ended by SystemExit"):
        await handlers.call(HUB, PythonHandler(handler="leave"), EVENT)


async def test_no_further_handlers_are_called_for_a_hub_whose_handlers_never_end(
    calling: Callable[..., Handlers],
) -> None:
    held = threading.Event()
    handlers = calling(hang=lambda event, args: held.wait(DEADLINE), good=lambda event, args: "answered")
    hang = PythonHandler(handler="hang", timeout_seconds=0)

    for _ in range(LEFT_BEHIND):
        with pytest.raises(HookError, match="not done within 0 s"):
            await handlers.call(HUB, hang, EVENT)
    with pytest.raises(HookError, match="8 earlier calls of this hub's handlers have not ended yet"):
        await handlers.call(HUB, PythonHandler(handler="good"), EVENT)
    assert await handlers.call(("ns", "other"), PythonHandler(handler="good"), EVENT) == "answered"

    held.set()
    await until(lambda: not handlers._left_behind, "all have ended")
    assert await handlers.call(HUB, PythonHandler(handler="good"), EVENT) == "answered"
