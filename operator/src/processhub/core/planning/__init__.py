"""The planner: which entries change, from one snapshot of a hub."""
