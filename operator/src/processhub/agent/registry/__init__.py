"""The slices of the hub: what this member is to run, and who owns every other child."""
