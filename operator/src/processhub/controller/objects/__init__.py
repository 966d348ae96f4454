"""The Kubernetes objects that a Hub owns: one builder a file, each a pure function of the Hub and the settings."""
