"""``make bench``: what the product takes, measured on the local cluster."""
