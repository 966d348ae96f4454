"""``make demo``: shows the main job on a real API server with real output."""
