"""The HTTP API: /v2, contracts A, B, D and E, health and metrics, on Falcon's ASGI app under gunicorn.

Resources are async and await blocking calls on bounded threads.
"""

from sytq.api.app import create_app

__all__ = ["create_app"]
