"""Observing a hub: from what the store has of it to the snapshot that the planner decides on."""
