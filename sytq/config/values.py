"""The types of settings: names, ports, sizes, secrets, addresses.

Error messages quote the bare text in each Annotated, which says what is valid.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr
from pydantic_core import PydanticCustomError

from sytq.config import urls
from sytq.config.cleaning import OneLine
from sytq.config.masking import MASK, mask_url
from sytq.config.patterns import VALID_HOST_PATTERN, VALID_URL_PATTERN, check_host_pattern, check_url_pattern


def problem(reason: str, valid: str, *, key: str = "", value: object = None) -> PydanticCustomError:
    """Return an error with a reason; `key` and `value` name a setting inside the section."""
    return PydanticCustomError(
        "setting", "{reason}; valid: {valid}", {"reason": reason, "valid": valid, "key": key, "value": value}
    )


def _whole_number_as_text(value: object) -> object:
    # `password: 123456` in YAML is a number; the old systems took it as text.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([0-9]+)\s*([kmg]i?)?b?\s*", value, re.IGNORECASE | re.ASCII)
    if found is None:
        raise problem("not a size", _SIZE)
    power = "kmg".index(found[2][0].lower()) + 1 if found[2] else 0
    return int(found[1]) * (1024 if found[2] and len(found[2]) == 2 else 1000) ** power


def _show_size(value: int) -> str:
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if value and value % 1024**power == 0:
            return f"{value // 1024**power}{unit}"
    return str(value)


def _by(check: Callable[[str], str], valid: str) -> Callable[[str], str]:
    def validate(value: str) -> str:
        try:
            return check(value)
        except ValueError as error:
            raise problem(str(error), valid) from None

    return validate


def _go_dsn(dsn: str) -> str:
    urls.database_url_of_go_dsn(dsn)
    return dsn


def _network(value: object) -> object:
    try:
        return ipaddress.ip_network(value)  # type: ignore[arg-type]
    except ValueError as error:
        if isinstance(value, str) and "host bits" in str(error):
            meant = ipaddress.ip_network(value, strict=False)
            raise problem(f"has bits beyond its prefix, perhaps {meant} is meant", _CIDR) from None
        raise problem("not a network", _CIDR) from None


def _of_form(form: str, valid: str, reason: str = "a header cannot carry it as it is") -> AfterValidator:
    def validate(secret: SecretStr) -> SecretStr:
        if not re.fullmatch(form, secret.get_secret_value()):
            raise problem(reason, valid)
        return secret

    return AfterValidator(validate)


def _word(others: Mapping[str, str]) -> BeforeValidator:
    """Accept a word in any case, and `others` for what they mean."""

    def read(value: object) -> object:
        word = value.strip().lower() if isinstance(value, str) else value
        return others.get(word, word) if isinstance(word, str) else word

    return BeforeValidator(read)


def _rate(value: object) -> object:
    """A number of starts, and the seconds within which they are counted."""
    form = r"\s*([0-9]{1,7})\s*/\s*([0-9]*)\s*(s|sec|m|min|h|hour|d|day)\s*"
    found = re.fullmatch(form, value) if isinstance(value, str) else None
    if found is None or int(found[1]) < 1 or found[2] == "0":
        raise problem("not a rate", _RATE)
    return int(found[1]), int(found[2] or 1) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[found[3][0]]


#: The level names of zap, logrus and slog, as in the old systems' LOG_LEVEL.
_LEVELS = {"trace": "debug", "warn": "warning", **dict.fromkeys(("critical", "dpanic", "panic", "fatal"), "error")}
_SIZE = "a number of bytes, or with a unit such as 512KiB, 1MiB"
_CIDR = "a network such as 10.0.0.0/8, 192.168.1.7/32 or fd00::/8"
_DSN = "https://key@host/project"
_KEY = "the key alone: printable ASCII without spaces and quotes"
_HEADER = "printable ASCII"
_RATE = "a number of starts and a time such as 100/min, 5/s or 20/10s"
_NAME = "a letter or _, then up to 63 letters, digits, _, - or ."
_IDENTIFIER = "a letter or _, then up to 63 letters, digits or _"
_PROXY = f"{urls.PROXY_FORM}, or {urls.ENVIRONMENT}"
_URL = "https://host/path or http://host/path"
_HOST = "a host name or address without scheme and port"
_PATH = "empty, or a path such as /ops/sytq of letters, digits, _, -, . and ~, of at most 200 characters"

Text = Annotated[str, BeforeValidator(_whole_number_as_text), OneLine()]
_in_json = partial(PlainSerializer, return_type=str, when_used="json")
_masked_if_any = _in_json(lambda secret: MASK if secret.get_secret_value() else "")
Secret = Annotated[SecretStr, BeforeValidator(_whole_number_as_text), _masked_if_any]
#: A bearer token, without the word `Bearer`.
Key = Annotated[Secret, _of_form(r"[!#-&(-_a-~]*", _KEY), _KEY]
HeaderValue = Annotated[Secret, _of_form(r"[ -~]*", _HEADER), _HEADER]
HeaderName = Annotated[str, Field(pattern=r"^[!#-'*+.0-9A-Z^-z|~-]+$"), "the name of a header"]
SentryDsn = Annotated[Secret, _of_form(r"https?://[^\s@/:]+(:[^\s@/]*)?@[^\s@]+/\d+", _DSN, "not a DSN"), _DSN]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$"), _NAME]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"), _IDENTIFIER]
#: Part of every Redis key; braces would move the keys to another slot of a cluster.
Prefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,64}$"), "1 to 64 letters, digits, _, -, . or :"]
#: A key in Redis, or the name of a consumer group.
StreamName = Annotated[Text, Field(pattern=r"^[^\s\x00-\x1f\x7f]{1,200}$"), "1 to 200 characters without spaces"]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]+$"), OneLine(), _HOST]
AllowedHost = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$"), AfterValidator(str.lower), "a host name"]
HostPattern = Annotated[str, AfterValidator(_by(check_host_pattern, VALID_HOST_PATTERN)), VALID_HOST_PATTERN]
UrlPattern = Annotated[str, AfterValidator(_by(check_url_pattern, VALID_URL_PATTERN)), VALID_URL_PATTERN]
Realm = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$"), "1 to 200 characters, none a control character"]
#: What a proxy has before sytq's paths; no segment is `.` or `..`.
BASE_PATH = r"^(/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)*$"
BasePath = Annotated[
    Text, AfterValidator(lambda path: path.rstrip("/")), Field(pattern=BASE_PATH, max_length=200), _PATH
]
Port = Annotated[int, Field(ge=1, le=65535), "a port from 1 to 65535"]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[int, Field(ge=0, le=1000)]
Rate = Annotated[tuple[int, float], BeforeValidator(_rate), _in_json(lambda rate: f"{rate[0]}/{rate[1]:g}s"), _RATE]
Size = Annotated[int, BeforeValidator(_size), Field(ge=1), _in_json(_show_size), _SIZE]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network), _CIDR]
Level = Annotated[str, _word(_LEVELS), Field(pattern="^(debug|info|warning|error)$"), "debug, info, warning, error"]
LogFormat = Annotated[str, _word({"text": "console"}), Field(pattern="^(json|console)$"), "json, console"]

_masked: Any = _in_json(mask_url)
DatabaseUrl = Annotated[
    str, AfterValidator(_by(urls.check_database_url, urls.DATABASE_FORMS)), OneLine(), _masked, urls.DATABASE_FORMS
]
GoDsn = Annotated[str, AfterValidator(_by(_go_dsn, urls.GO_DSN_FORM)), OneLine(), _masked, urls.GO_DSN_FORM]
RedisUrl = Annotated[
    str, AfterValidator(_by(urls.check_redis_url, urls.REDIS_FORMS)), OneLine(), _masked, urls.REDIS_FORMS
]
Address = Annotated[str, AfterValidator(_by(urls.check_address, "host:port")), OneLine(), "host:port"]
WebUrl = Annotated[str, AfterValidator(_by(urls.check_web_url, "https://host/path")), OneLine(), _masked, _URL]
#: Its query (`?api-version=...`) is kept by every call.
ApiUrl = Annotated[str, AfterValidator(_by(urls.check_api_url, "https://host/path")), OneLine(), _masked, _URL]
ProxyUrl = Annotated[
    str, AfterValidator(_by(urls.check_proxy_url, urls.PROXY_FORM)), OneLine(), _masked, urls.PROXY_FORM
]
#: The URL of a proxy, or `environment`.
Proxy = Annotated[str, AfterValidator(_by(urls.check_proxy, _PROXY)), OneLine(), _masked, _PROXY]
