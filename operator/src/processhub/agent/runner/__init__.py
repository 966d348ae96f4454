"""The runner: a process that runs Python children. It uses the standard library only, for any image's own Python."""
