"""The agent of a hub's member: it runs what the member's slices list, and reports what it runs."""
