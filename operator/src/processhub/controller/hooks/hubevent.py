"""What happened, and how a hook is told of it: one CloudEvent (1.0, structured JSON)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent

from processhub.api.hooks import CLOUD_EVENT_PREFIX, HookEvent
from processhub.controller.store.hubstate import HubKey


class HubEvent(msgspec.Struct, frozen=True):
    """One event of a hub. ``subject`` is the child's id or the member's name, "" where it is the hub itself."""

    kind: HookEvent
    subject: str
    data: Mapping[str, Any]


class Delivery(msgspec.Struct, frozen=True):
    """A happening on its way; its id and time stay the same however often it is tried."""

    happening: HubEvent
    id: str
    time: datetime

    @classmethod
    def about(cls, happening: HubEvent) -> Delivery:
        """The happening, with a new id and the present time."""
        return cls(happening, str(uuid.uuid4()), datetime.now(UTC))


class CloudEventText(msgspec.Struct, frozen=True):
    """A letter as it is sent."""

    id: str
    headers: Mapping[str, str]
    body: bytes

    def content(self) -> dict[str, Any]:
        """The CloudEvent as a Python handler gets it: a copy of its own."""
        content: dict[str, Any] = msgspec.json.decode(self.body)
        return content


def cloud_event(letter: Delivery, hub: HubKey) -> CloudEventText:
    """The letter's text."""
    happening, (namespace, name) = letter.happening, hub
    event = CloudEvent(
        {
            "id": letter.id,
            "source": f"/namespaces/{namespace}/hubs/{name}",
            "type": f"{CLOUD_EVENT_PREFIX}{happening.kind}",
            "subject": happening.subject or name,
            "time": letter.time,
            "datacontenttype": "application/json",
        },
        {"namespace": namespace, "hub": name, **happening.data},
    )
    message = to_structured_event(event)
    return CloudEventText(letter.id, message.headers, message.body)
