"""Background loops of the worker processes, one noun a file."""
