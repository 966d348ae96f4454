"""The simulator: the real operator and agents in one thread and virtual time, with faults chosen by one seed.

``python -m simulation`` runs seeds; ``make simulate`` calls it.
"""
