"""The hub's slices as this member reads them: what it is to run, and who owns every other child."""
