"""The types of the settings' fields. Each type reads the text of a variable, or says what is wrong with it."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from cachekeeper.values.ids import IdType
from cachekeeper.values.urls.broker_url import broker_url
from cachekeeper.values.urls.mongodb_url import mongodb_url
from cachekeeper.values.urls.redis_url import redis_url
from cachekeeper.values.visible_text import clean, stripped

SHORTEST_API_KEY = 16

LONGEST_SECONDS = 366 * 86_400
"""No setting needs a longer time. Still longer times would be errors of Redis or Python, at run time."""


def _unless_none(check: Callable[[Any], str]) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value is None else check(value))


def _list(value: Any) -> Any:
    return tuple(part for part in map(clean, value.split(",")) if part) if isinstance(value, str) else value


def _check_api_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    # Characters that an HTTP header carries unchanged (RFC 6750, b64token), and so many that a key cannot be
    # guessed.
    if not all(re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", key) and len(key) >= SHORTEST_API_KEY for key in keys):
        raise ValueError(
            f"each key must have at least {SHORTEST_API_KEY} characters: only letters, digits and - . _ ~ + /"
        )
    return keys


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if stripped(part)]
    found = {clean(name): clean(kind) for name, _, kind in pairs}
    if not all(found) or not all(sign for _, sign, _ in pairs):
        raise ValueError("must be view=type pairs with commas between them, as in user_name=objectid,session=str")
    if len(found) < len(pairs):
        raise ValueError("names a view twice: remove one of its pairs")
    return found


RedisUrl = Annotated[str, _unless_none(redis_url)]
BrokerUrl = Annotated[str, _unless_none(broker_url)]
MongoUrl = Annotated[str, _unless_none(mongodb_url)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS)]
Modules = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list), Field(min_length=1)]
IdTypes = Annotated[Mapping[str, IdType], NoDecode, BeforeValidator(_pairs)]
ApiKeys = Annotated[
    tuple[str, ...], NoDecode, AfterValidator(_check_api_keys), BeforeValidator(_list), Field(min_length=1)
]
