"""The member's Lease: it is taken, renewed and released, and its deadlines are passed to the watchdog."""
