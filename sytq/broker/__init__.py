"""The transport: a Dramatiq broker on Redis Streams in which the acknowledgement is the only commit point.

Owns everything that is in Redis. Must not know SQL, HTTP, plugins or what a task does.
"""
