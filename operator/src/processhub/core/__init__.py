"""Pure decisions: placement, acceptance, planning, packing. No clock, no network, no Kubernetes."""
