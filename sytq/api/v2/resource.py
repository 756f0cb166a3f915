"""What every resource of /v2 has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sytq.api.parts import Parts


class Resource:
    """A resource that refuses query parameters other than those that `parameters` lists for the method."""

    parameters: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
