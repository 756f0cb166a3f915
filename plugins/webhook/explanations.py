"""What the errors of deliveries mean, for the page of a task."""

from __future__ import annotations

from sytq.plugins import Explanation

EXPLANATIONS = [
    Explanation(
        r"redirects are not followed",
        "The receiver answered with a redirect, which could lead anywhere: the caller has to send the new URL.",
        "webhooks.md#retries",
    ),
    Explanation(
        r"^HTTP \d{3} from .*(?:gone for good|which is final)",
        "The receiver said that it will never take this request.",
        "webhooks.md#retries",
    ),
    Explanation(
        r"^HTTP 429 from ",
        "The receiver has too much to do. Its `Retry-After` sets the next attempt.",
        "webhooks.md#limits-per-host",
    ),
    Explanation(
        r"^HTTP \d{3} from ",
        "The receiver did not answer with a 2xx. The same request is sent again until it is too old.",
        "webhooks.md#retries",
    ),
    Explanation(
        r" (?:cannot be resolved|timed out|closed the connection)|^(?:connection |no connection|no route)"
        r"|^TLS with |certificate of",
        "The receiver did not answer. The same request is sent again until it is too old.",
        "webhooks.md#retries",
    ),
    Explanation(
        r" gave no valid HTTP answer| answered .* no final HTTP status",
        "What answers there speaks no HTTP, or not on this port: the URL is most likely wrong.",
        "webhooks.md#answers-as-they-are",
    ),
]
