"""Reports of what this member runs, written to the status of its slices."""
