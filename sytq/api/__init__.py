"""The HTTP front: contracts A, B, D and E, health and metrics, on Falcon's ASGI app under gunicorn.

Owns `create_app`. Resources are async and await everything that blocks on bounded threads; the core below
them stays synchronous.
"""

from sytq.api.app import create_app

__all__ = ["create_app"]
