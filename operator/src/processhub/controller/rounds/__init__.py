"""What all stages of a round share: its objects, its steps and the Events that it posts."""
