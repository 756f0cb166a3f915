"""The details of an attempt."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any, cast

import pytest

from sytq.executor.async_context import AsyncContext
from sytq.executor.attempt import Services
from sytq.tasktypes.registry import Registry
from tests.plugins.deliveries import settings, started


@pytest.fixture
def context() -> AsyncContext:
    given = settings()
    absent = dict.fromkeys((field.name for field in fields(Services)), cast(Any, None))
    services = Services(**absent | {"settings": given})
    return AsyncContext(services, Registry.load(given).get("webhook"), started({"url": "http://example.com/"}))


def test_details_of_several_calls_are_merged(context: AsyncContext) -> None:
    context.detail(status=200, tokens=7)
    context.detail(status=503, host="example.com")
    assert context._delivery.detail == {"status": 503, "tokens": 7, "host": "example.com"}


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "200"},
        {"status": 10_000},
        {"host": "bücher.example"},
        {"host": "x" * 256},
        {"own": "x" * 70_000},
        {"own": float("nan")},
    ],
)
def test_invalid_detail_is_refused_and_changes_nothing(context: AsyncContext, fields: dict[str, Any]) -> None:
    context.detail(status=200)
    with pytest.raises(ValueError):
        context.detail(**fields)
    assert context._delivery.detail == {"status": 200}


def test_function_that_raises_stop_iteration_ends_what_waits_for_it(context: AsyncContext) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(asyncio.wait_for(context.blocking(lambda: next(iter(()))), 30))
