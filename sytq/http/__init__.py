"""Outbound HTTP: who may be reached (guard) and how (client).

Owns every call that leaves the service except those to Redis and the database. Knows nothing of tasks,
queues or settings; must not follow redirects, read proxies from the environment or keep cookies.
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
