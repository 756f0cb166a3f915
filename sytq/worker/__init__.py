"""The worker process around the executor: its start and end, its loops, its middleware and its health."""
