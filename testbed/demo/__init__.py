"""``make demo``: the main job, told on a real API server with real output."""
