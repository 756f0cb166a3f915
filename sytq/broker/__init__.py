"""The transport: a Dramatiq broker on Redis Streams in which the acknowledgement is the only commit point.

Must not know SQL, HTTP, plugins or what a task does.
"""
