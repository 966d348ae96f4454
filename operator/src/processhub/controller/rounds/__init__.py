"""The parts that all stages of a round share: its inputs, its steps, and the Events that it posts."""
