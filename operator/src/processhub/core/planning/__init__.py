"""The planner: from one snapshot of a hub it computes which entries change."""
