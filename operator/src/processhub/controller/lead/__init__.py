"""Leadership: the election, the terms that fence a former leader, and the probes of a replica."""
