"""Hooks: events are derived from two views of a hub, and delivered to webhooks and Python handlers."""
