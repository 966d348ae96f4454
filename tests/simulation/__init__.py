"""The simulator: the real operator and agents in one thread and virtual time, with faults that one seed chooses.

``python -m simulation`` runs seeds; ``make simulate`` calls it.
"""
