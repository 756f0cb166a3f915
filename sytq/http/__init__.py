"""Outbound HTTP, except to Redis and the database: the client, and the guard that decides which hosts it may reach.

Must not know tasks, queues or settings.
"""

from sytq.http.client import MANAGED_HEADERS, Answer, BlockingClient, Client, check_headers
from sytq.http.guard import Guard, parse_url
from sytq.http.sessions import CertificateUnusable, ProxyFailed, UnknownHost
from sytq.http.timing import Timing

__all__ = [
    "MANAGED_HEADERS",
    "Answer",
    "BlockingClient",
    "CertificateUnusable",
    "Client",
    "Guard",
    "ProxyFailed",
    "Timing",
    "UnknownHost",
    "check_headers",
    "parse_url",
]
