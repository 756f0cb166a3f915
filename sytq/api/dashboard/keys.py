"""The page of API keys: create, rotate and revoke. A secret is in the answer to its POST, and nowhere later."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, ClassVar

import falcon.asgi
from multidict import MultiDict

from sytq.api.dashboard.page import Answer, Done, Page
from sytq.api.dashboard.stores import gathered
from sytq.durations import parse_duration
from sytq.errors import InvalidInput
from sytq.ledger.api_keys import SCOPES, ApiKeys, Grant, NotConfirmed
from sytq.ledger.models import ApiKey
from sytq.ledger.query.fields import read_moment
from sytq.ledger.values import utcnow
from sytq.service.api_keys import read_rate, view

_MAX_SHOWN = 500
_MAX_GRACE = 30 * 86400.0
_ORDER = ("live", "rotated", "expired", "revoked")


class Keys(Page):
    """GET, POST /dashboard/keys"""

    template = "keys.html"
    section = "/keys"
    scopes: ClassVar = {"GET": "admin", "POST": "admin"}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        found = await gathered(rows=self._parts.sql.run(self._keys.all))
        keys = sorted(map(view, found["rows"] or ()), key=lambda key: _ORDER.index(key["state"]))
        types = [known.name for known in self._parts.runtime.registry]
        return {
            "keys": keys[:_MAX_SHOWN],
            "total": len(keys),
            "scopes": SCOPES,
            "types": sorted(types),
            "secret": None,
            "missing": found["missing"],
        }

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done | Answer:
        name = form.get("name", "").strip()
        grant = Grant(
            scopes=form.getall("scope", []),
            types=form.getall("type", []),
            rate=read_rate(text) if (text := form.get("rate", "").strip()) else None,
            daily_tasks=_daily(form.get("daily", "").strip()),
            expires_at=_expiry(form.get("expires", "").strip()),
        )
        owner = form.get("owner", "").strip() or name
        return await self._shown(req, self._keys.create, name, owner, grant)

    async def _shown(self, req: falcon.asgi.Request, make: Callable[..., tuple[ApiKey, str]], *of_what: Any) -> Answer:
        req.context.audit_detail = None  # the ledger writes it
        try:
            row, text = await self._parts.sql.finish(make, *of_what, req.context.caller.name)
        except NotConfirmed as error:
            return Answer({"secret": error.text, "of": None, "unconfirmed": error.key_id}, falcon.HTTP_503)
        return Answer({"secret": text, "of": row})

    @property
    def _keys(self) -> ApiKeys:
        return ApiKeys(self._parts.runtime.database)


class RotateKey(Keys):
    """POST /dashboard/keys/{key_id}/rotate"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done | Answer:
        grace = _grace(form.get("grace", "").strip())
        return await self._shown(req, self._keys.rotate, path["key_id"], grace)


class RevokeKey(Keys):
    """POST /dashboard/keys/{key_id}/revoke"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done | Answer:
        key_id = path["key_id"]
        revoked = await self._parts.sql.finish(self._keys.revoke, key_id, req.context.caller.name)
        self._parts.sessions.forget()
        req.context.audit_detail = None  # the ledger has written it
        return Done("/keys", f"The key {key_id} is revoked." if revoked else f"The key {key_id} was revoked before.")


def _daily(text: str) -> int | None:
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise InvalidInput("daily", f"'{text[:32]}' is not a whole number")
    return int(text) if text else None


def _expiry(text: str) -> dt.datetime | None:
    if not text:
        return None
    try:
        moment = read_moment("expires", text)
        if isinstance(moment, dt.timedelta):
            moment = utcnow() + moment
        elif not isinstance(moment, dt.datetime):
            moment = dt.datetime.combine(moment, dt.time())
    except (ValueError, OverflowError) as error:
        raise InvalidInput("expires", str(error)) from None
    if moment <= utcnow():
        raise InvalidInput("expires", "is in the past")
    return moment


def _grace(text: str) -> float:
    try:
        grace = parse_duration(text)
    except ValueError as error:
        raise InvalidInput("grace", str(error)) from None
    if grace > _MAX_GRACE:
        raise InvalidInput("grace", "longer than 30 days; revoke the key when its clients have the new one")
    return grace
