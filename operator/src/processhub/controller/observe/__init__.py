"""From what is known of a hub to the snapshot that the planner decides on."""
