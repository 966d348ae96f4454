"""The agent: runs in every member pod what its slices say and reports what it runs."""
