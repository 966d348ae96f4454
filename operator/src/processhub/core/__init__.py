"""Decisions as pure functions: placement, acceptance, planning and packing. No clock, no network, no Kubernetes."""
