"""External streams: Redis streams of other programs whose messages run as tasks."""
