"""Events of a hub, and the CloudEvent (1.0, structured JSON) in which each is delivered to hooks."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from cloudevents.core.bindings.http import to_structured_event
from cloudevents.core.v1.event import CloudEvent

from processhub.api.hooks import CLOUD_EVENT_PREFIX, HookEvent
from processhub.cluster.timestamps import utc_now
from processhub.controller.store.hubstate import HubKey


class HubEvent(msgspec.Struct, frozen=True):
    """One event of a hub. ``subject`` is the child's id or the member's name, or "" for the hub itself."""

    kind: HookEvent
    subject: str
    data: Mapping[str, Any]


class Delivery(msgspec.Struct, frozen=True):
    """An event that is being delivered to the hooks. Its id and time stay the same for each attempt."""

    event: HubEvent
    id: str
    time: datetime

    @classmethod
    def about(cls, event: HubEvent) -> Delivery:
        """A new delivery of the event, with a new id and the present time."""
        return cls(event, str(uuid.UUID(int=random.getrandbits(128), version=4)), utc_now())


class CloudEventText(msgspec.Struct, frozen=True):
    """A delivery as it is sent: the headers and the body of the CloudEvent."""

    id: str
    headers: Mapping[str, str]
    body: bytes

    def content(self) -> dict[str, Any]:
        """The CloudEvent as a Python handler gets it, in a copy of its own."""
        content: dict[str, Any] = msgspec.json.decode(self.body)
        return content


def cloud_event(delivery: Delivery, hub: HubKey) -> CloudEventText:
    """The CloudEvent of a delivery."""
    event, (namespace, name) = delivery.event, hub
    envelope = CloudEvent(
        {
            "id": delivery.id,
            "source": f"/namespaces/{namespace}/hubs/{name}",
            "type": f"{CLOUD_EVENT_PREFIX}{event.kind}",
            "subject": event.subject or name,
            "time": delivery.time,
            "datacontenttype": "application/json",
        },
        {"namespace": namespace, "hub": name, **event.data},
    )
    message = to_structured_event(envelope)
    return CloudEventText(delivery.id, message.headers, message.body)
