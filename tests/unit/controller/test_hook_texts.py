"""The texts of hooks in the operator's Events, statuses and logs: bounded, and valid UTF-8."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, cast

import msgspec
import pytest
import virtualtime
from aiohttp import web

from builders import client_of, make_hub
from processhub.api.hooks import HookEvent, Webhook
from processhub.api.hub import Hub
from processhub.api.reasons import EventReason
from processhub.cluster.client import Client
from processhub.cluster.errors import InvalidError
from processhub.cluster.kinds import CHILDREN
from processhub.controller.hooks.asking import Asker
from processhub.controller.hooks.hubevent import CloudEventText
from processhub.controller.hooks.verdicts import parse_answer
from processhub.controller.hooks.webhook import HookError, new_session, post
from processhub.controller.rounds.events import EventRecorder


class Events:
    """Accepts Events as an API server does: only valid UTF-8."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.last = asyncio.Event()  # the Event that is waited for

    async def create(self, kind: object, namespace: str, event: dict[str, Any]) -> None:
        msgspec.json.encode(event)
        self.posted.append(event)
        if event["reason"] == EventReason.MEMBER_JOINED:
            self.last.set()


def hub_with_hook() -> Hub:
    hook = {"name": "gate", "event": "PreChildStart", "webhook": {"url": "http://127.0.0.1:9"}}
    return make_hub(spec={"hooks": [hook]})


async def answered_with(status_line: bytes) -> HookError:
    """Return what a webhook with this response reports."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(status_line + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, new_session() as session:
        with pytest.raises(HookError) as caught:
            await post(session, Webhook(url=url), CloudEventText("1", {}, b"{}"))
    return caught.value


async def test_a_webhook_response_that_is_no_text_does_not_stop_the_operators_events() -> None:
    error = await answered_with(b"HTTP/1.1 500 bad \xff\xfe")
    events = Events()
    recorder = EventRecorder(cast("Client", events), "test")
    posting = asyncio.create_task(recorder.run())

    async def call(hook: object, event: object) -> Any:
        raise error

    await Asker(hub_with_hook(), call, recorder).ask(HookEvent.PRE_CHILD_START, "a", {})
    recorder.about_hub(hub_with_hook(), EventReason.MEMBER_JOINED, "member hub-0 is there")
    waiting = asyncio.create_task(events.last.wait())
    await asyncio.wait((posting, waiting), return_when=asyncio.FIRST_COMPLETED)
    assert not posting.done()
    assert [event["reason"] for event in events.posted] == ["HookFailed", "MemberJoined"]
    posting.cancel()


async def test_only_the_beginning_of_a_hooks_long_text_is_reported() -> None:
    error = await answered_with(b"HTTP/1.1 500 " + b"x" * 8000)
    denied = parse_answer(msgspec.json.encode({"allow": False, "reason": "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 20_000}))

    assert len(str(error)) == 1024
    assert str(error).startswith("answered 500 xxx")
    assert len(denied.reason.encode()) <= 1024
    assert len(HookError("y" * 10**6).args[0]) == 1024


async def test_a_verdict_that_cannot_be_written_as_json_is_rejected() -> None:
    async with client_of(web.Application()) as client:
        with pytest.raises(InvalidError, match="UTF-8"):
            await client.create(CHILDREN, "ns", {"message": "\udcff"})


def test_events_about_a_hub_are_bounded_whatever_its_hooks_return() -> None:
    async def ten_minutes() -> None:
        events = Events()
        recorder = EventRecorder(cast("Client", events), "test")
        posting = asyncio.create_task(recorder.run())
        hub = hub_with_hook()
        for number in range(6000):
            recorder.about_hub(hub, EventReason.HOOK_FAILED, f"hook gate gave no answer: {number}", warning=True)
            if number % 1000 == 0:
                recorder.about_hub(hub, EventReason.MEMBER_LOST, f"member hub-{number} is lost", warning=True)
            recorder.flush(hub)
            await asyncio.sleep(0.1)
        posting.cancel()
        said = Counter(event["reason"] for event in events.posted)
        assert said["MemberLost"] == 6, "one reason does not keep another from being reported"
        assert said["HookFailed"] <= (50 + 600 * 0.2) + (5 + 600 * 0.2)
        more = [event["message"] for event in events.posted if event["message"].endswith("more times: HookFailed")]
        reported = sum(int(message.split()[0]) for message in more)
        assert reported + said["HookFailed"] - len(more) > 5800, "what is over the rate is counted"

    virtualtime.run(ten_minutes())


async def test_an_events_message_is_cut_at_the_api_servers_limit() -> None:
    events = Events()
    recorder = EventRecorder(cast("Client", events), "test")
    posting = asyncio.create_task(recorder.run())
    recorder.about_hub(hub_with_hook(), EventReason.MEMBER_JOINED, "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 1000)
    await events.last.wait()
    posting.cancel()
    assert events.posted[0]["message"] == "\N{CJK UNIFIED IDEOGRAPH-4E00}" * 341
