"""The command line ``kubectl hub``."""
