"""``make bench``: measures the product on the local cluster."""
