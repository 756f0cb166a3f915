"""The hooks of Dramatiq's middleware around an attempt, on the event loop or on the thread of a plain function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import structlog
from dramatiq import Broker
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.middleware.middleware import MiddlewareError

from sytq.broker.delivery import Delivery

log = structlog.get_logger(__name__)

_NAMES = ("before_process_message", "after_process_message", "after_skip_message")
_NOTHING = contextlib.nullcontext()


class Hooks:
    """The hooks that some middleware overrides, called as Dramatiq's worker calls them.

    `middleware` is asked at the first attempt: others may be added until then.
    """

    def __init__(self, broker: Broker, middleware: Callable[[], Iterable[Middleware]]) -> None:
        self._broker = broker
        self._middleware = middleware

    def around(self, delivery: Delivery) -> contextlib.AbstractContextManager[None]:
        """Call the hooks before and after the block, which may raise; its exception is the delivery's."""
        return self._around(delivery) if any(self._hooks) else _NOTHING

    @contextlib.contextmanager
    def _around(self, delivery: Delivery) -> Iterator[None]:
        before, after, after_skip = self._hooks
        try:
            for hook in before:
                self._call(hook, delivery, raises=MiddlewareError)
            yield
        except SkipMessage:
            for hook in after_skip:
                self._call(hook, delivery)
            raise
        except BaseException as error:
            delivery.stuff_exception(error)
            for hook in after:
                self._call(hook, delivery, exception=error)
            raise
        else:
            for hook in after:
                self._call(hook, delivery, result=None)

    @cached_property
    def _hooks(self) -> tuple[list[Callable[..., None]], ...]:
        middleware = list(self._middleware())
        before, after, after_skip = (
            [getattr(one, name) for one in middleware if getattr(type(one), name) is not getattr(Middleware, name)]
            for name in _NAMES
        )
        return before, after[::-1], after_skip[::-1]

    def _call(
        self, hook: Callable[..., None], delivery: Delivery, raises: type[Exception] | tuple[()] = (), **ended: Any
    ) -> None:
        try:
            hook(self._broker, delivery, **ended)
        except raises:
            raise
        except Exception:
            log.critical("middleware failed", hook=getattr(hook, "__qualname__", repr(hook)), exc_info=True)
