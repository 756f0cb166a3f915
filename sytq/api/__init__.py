"""The HTTP API: /v2, contracts A, B, D and E, health and metrics, on Falcon's ASGI app under gunicorn."""

from sytq.api.app import create_app

__all__ = ["create_app"]
