"""The operator: kopf handlers, the reconcile loop, the objects it makes, and status."""
