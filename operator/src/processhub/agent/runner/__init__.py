"""The runner: a process that runs Python children. Standard library only, for any image's own Python."""
