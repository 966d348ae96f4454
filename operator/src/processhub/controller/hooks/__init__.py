"""Hooks: what happened in a hub is derived from two looks at it, and told to webhooks and Python handlers."""
