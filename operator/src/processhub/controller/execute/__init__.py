"""Carrying a plan out. Each write is a step that fails alone."""
