"""Outbound HTTP, except to Redis and the database: the client, and the guard that decides which hosts it may reach.

Must not know tasks, queues or settings. Only `sessions` and `protocol` import aiohttp; the client does when it calls.
"""
