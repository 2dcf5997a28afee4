"""Settings: the environment, read once, into one frozen object."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cachekeeper.errors import SettingsError
from cachekeeper.metrics import log_once
from cachekeeper.values.argument_checks import check_given
from cachekeeper.values.ids import IdType
from cachekeeper.values.urls.broker_url import broker_url
from cachekeeper.values.urls.mongodb_url import mongodb_url
from cachekeeper.values.urls.redis_url import redis_url
from cachekeeper.values.visible_text import clean, stripped

PREFIX = "CACHEKEEPER_"
SHORTEST_API_KEY = 16
S = TypeVar("S", bound=BaseSettings)

_LONGEST_SECONDS = 366 * 86_400
"""No time here means more; beyond some bound Redis and Python would refuse it one by one, at run time."""


_NEARLY = 0.85
"""How much of two names must be alike, by `difflib`, for one to be taken for the other misspelt."""

_OF_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT$|_PORT_\d+_\w+$")
"""How the variables end that Kubernetes sets in every pod for each service of its namespace."""


def _unless_none(check: Callable[[Any], str]) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value is None else check(value))


def _list(value: Any) -> Any:
    return tuple(part for part in map(clean, value.split(",")) if part) if isinstance(value, str) else value


def _check_api_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    # What an HTTP header carries unchanged (RFC 6750, b64token), and too long to be guessed.
    if not all(re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", key) and len(key) >= SHORTEST_API_KEY for key in keys):
        raise ValueError(
            f"each key must have at least {SHORTEST_API_KEY} characters, out of letters, digits and - . _ ~ + /"
        )
    return keys


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if stripped(part)]
    found = {clean(name): clean(kind) for name, _, kind in pairs}
    if not all(found) or not all(sign for _, sign, _ in pairs):
        raise ValueError("write view=type pairs with commas between, as in user_name=objectid,session=str")
    if len(found) < len(pairs):
        raise ValueError("names a view twice")
    return found


RedisUrl = Annotated[str, _unless_none(redis_url)]
BrokerUrl = Annotated[str, _unless_none(broker_url)]
MongoUrl = Annotated[str, _unless_none(mongodb_url)]
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)]
Modules = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list), Field(min_length=1)]
IdTypes = Annotated[Mapping[str, IdType], NoDecode, BeforeValidator(_pairs)]
DEFAULT_MODULES = ("producers", "lookups", "worker")
ApiKeys = Annotated[
    tuple[str, ...], NoDecode, AfterValidator(_check_api_keys), BeforeValidator(_list), Field(min_length=1)
]


class _Cleaned(BaseSettings):
    """Reads the environment. Blanks around a value are nothing; what cannot be seen inside one is refused."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: Any, info: ValidationInfo) -> Any:
        # A list may stand on several lines: each of its parts is cleaned by itself.
        is_list = NoDecode in cls.model_fields[str(info.field_name)].metadata
        return clean(value) if isinstance(value, str) and not is_list else value


class Settings(_Cleaned):
    """Everything an operator can set, each field under `CACHEKEEPER_` and its name in capitals. Times are seconds.

    Attributes:
        redis_url: the cache. May evict.
        security_redis_url: where sessions and blocks live; must not evict. Default: `redis_url`.
        mongodb_url: MongoDB, with the database in its path.
        broker_url: the broker; only publishers and workers need one.
        modules: packages that register views, events and handlers, each with a function `register(registry)`.
        id_types: how ids map to `_id`, by view name; views not named keep their own (`auto`).
        redis_timeout_seconds: for connecting to Redis, and for each answer.
        load_timeout_seconds: for one database read, and for what is written at once.
        lookup_timeout_seconds: for one lookup, whatever happens; also the longest a lookup waits for another's load.
        lease_seconds: how long a reader may hold the right to fill.
        redelivery_seconds: how late a broker may deliver an event again; markers and deadlines outlive it.
        negative_ttl_seconds: how long 'does not exist' is remembered.
        load_concurrency: database reads at once, per process.
        block_leeway_seconds: how much longer than its token a block lasts.
        text_limit_chars: longer search texts are answered from MongoDB and not cached.
        value_limit_bytes: larger values are returned and not cached.
        read_concern: `majority`, or `linearizable` where a deposed primary must not answer either.
        publish_timeout_seconds: for one publish, retry included.
        outbox_retry_seconds: how long the relay waits for an event to be applied before it publishes it again; each
            further time twice as long, up to 32 times.
        outbox_limit_events: events that are published from the outbox and not yet applied, at most.
        dead_letter_seconds: how long a dead letter is kept after the last time that its event failed.
    """

    redis_url: RedisUrl = Field(repr=False)
    security_redis_url: RedisUrl = Field(default="", repr=False, validate_default=False)
    mongodb_url: MongoUrl = Field(repr=False)
    broker_url: BrokerUrl | None = Field(default=None, repr=False)
    modules: Modules = DEFAULT_MODULES
    id_types: IdTypes = Field(default_factory=dict)
    redis_timeout_seconds: Seconds = 0.5
    load_timeout_seconds: Seconds = 2.0
    lookup_timeout_seconds: Seconds = 5.0
    lease_seconds: Seconds = 10.0
    redelivery_seconds: Seconds = 3600.0
    negative_ttl_seconds: Seconds = 30.0
    load_concurrency: PositiveInt = 16
    block_leeway_seconds: float = Field(default=60.0, ge=0, le=_LONGEST_SECONDS)
    text_limit_chars: int = Field(default=64, ge=1, le=512)
    value_limit_bytes: PositiveInt = 1024 * 1024
    read_concern: Literal["majority", "linearizable"] = "majority"
    publish_timeout_seconds: Seconds = 5.0
    outbox_retry_seconds: Seconds = 30.0
    outbox_limit_events: PositiveInt = 20_000
    dead_letter_seconds: Seconds = 30 * 86_400.0

    @field_validator("lookup_timeout_seconds", "lease_seconds")
    @classmethod
    def _outlasts_a_load(cls, value: float, info: ValidationInfo) -> float:
        load, call = info.data.get("load_timeout_seconds"), info.data.get("redis_timeout_seconds")
        if load is None or call is None:
            return value  # the one that is missing is wrong itself
        one_load = load + 2 * call
        if value <= one_load:
            raise ValueError(
                "must outlast one load and two calls of Redis: "
                f"more than LOAD_TIMEOUT_SECONDS + 2 * REDIS_TIMEOUT_SECONDS, here {one_load:g}"
            )
        return value

    @property
    def security_url(self) -> str:
        """Where sessions and blocks live."""
        return self.security_redis_url or self.redis_url

    @property
    def lease_ms(self) -> int:
        """`lease_seconds`, as the protocol takes it."""
        return round(self.lease_seconds * 1000)

    @property
    def negative_ms(self) -> int:
        """`negative_ttl_seconds`, as the protocol takes it."""
        return round(self.negative_ttl_seconds * 1000)

    @property
    def marker_ms(self) -> int:
        """How many milliseconds a marker lives: longer than the longest load and the latest redelivery."""
        return round((self.redelivery_seconds + self.lease_seconds + self.lookup_timeout_seconds) * 1000)


class WorkerSettings(Settings):
    """What a worker needs: all of them, and a broker."""

    broker_url: BrokerUrl = Field(repr=False)


class PublisherSettings(_Cleaned):
    """All that a service needs which only publishes: it is told neither where Redis is nor where MongoDB is.

    Attributes:
        broker_url: the broker.
        publish_timeout_seconds: for one publish, retry included.
    """

    broker_url: BrokerUrl = Field(repr=False)
    publish_timeout_seconds: Seconds = 5.0


class DoorSettings(PublisherSettings):
    """What the HTTP door needs: it is told neither where Redis is nor where MongoDB is.

    Attributes:
        modules: as in `Settings`; those of them that register events.
        http_api_keys: each opens the door; several, so that a new one can be handed out before the old one is void.
        http_body_limit_bytes: for the body of one request.
        http_batch_limit_events: for one request.
    """

    modules: Modules = DEFAULT_MODULES
    http_api_keys: ApiKeys = Field(repr=False)
    http_body_limit_bytes: PositiveInt = 1024 * 1024
    http_batch_limit_events: PositiveInt = 1000


class OutboxSettings(_Cleaned):
    """What it takes to look into the outbox.

    Attributes:
        mongodb_url, load_timeout_seconds: as in `Settings`.
    """

    mongodb_url: MongoUrl = Field(repr=False)
    load_timeout_seconds: Seconds = 2.0


class LetterSettings(OutboxSettings):
    """What it takes to look into the dead letters.

    Attributes:
        modules: as in `Settings`; the events that they register say what is masked.
    """

    modules: Modules = DEFAULT_MODULES


class ReplaySettings(LetterSettings, PublisherSettings):
    """What it takes to publish dead letters again: MongoDB and the broker, no Redis."""


class RelaySettings(OutboxSettings, PublisherSettings):
    """What the outbox's relay needs: MongoDB and the broker, no Redis.

    Attributes:
        outbox_retry_seconds, outbox_limit_events: as in `Settings`.
    """

    outbox_retry_seconds: Seconds = 30.0
    outbox_limit_events: PositiveInt = 20_000


class PolicySettings(_Cleaned):
    """Which views, events and handlers there are, and how the views' ids are read.

    Attributes:
        modules, id_types: as in `Settings`.
    """

    modules: Modules = DEFAULT_MODULES
    id_types: IdTypes = Field(default_factory=dict)


class StreamSettings(OutboxSettings, PolicySettings):
    """What the change stream's relay needs: MongoDB alone."""


def check_settings(settings: object, *wanted: type[BaseSettings], url: str) -> None:
    """Refuse what are no settings.

    Args:
        settings: what was given as `settings`.
        wanted: kinds of settings that are taken.
        url: the field that a URL given in their place was meant for, perhaps.

    Raises:
        TypeError: they are none of these.
    """
    cure = f"cachekeeper.load_settings({url}=…), or nothing for those of the environment"
    check_given(settings, "settings", *wanted, cure=cure)


def load_settings(**overrides: object) -> Settings:
    """The settings of this process's environment.

    Args:
        overrides: fields by name, in place of the environment's.

    Raises:
        SettingsError: names every variable at fault, a line each, and what it should be.
    """
    return load(Settings, **overrides)


def load(kind: type[S], **overrides: Any) -> S:
    """The settings of one kind, as `load_settings`."""
    lines = _misspelt()
    try:
        made = kind(**overrides)
    except ValidationError as error:
        lines += [
            _line(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors(include_input=False)
        ]
    if lines:
        raise SettingsError("\n".join(["The settings are wrong:", *lines]))
    return made


def _misspelt() -> list[str]:
    """A line for each variable that is nearly one of ours; a word in the log for one that is not even that.

    Those are no error, and neither is what Kubernetes sets: in a namespace with a service called `cachekeeper-redis`,
    say, every pod is given `CACHEKEEPER_REDIS_PORT`, which is nearly `CACHEKEEPER_REDIS_URL`.
    """
    ours = [PREFIX + field.upper() for field in {**Settings.model_fields, **DoorSettings.model_fields}]
    lines = []
    for name in sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in ours):
        meant = get_close_matches(name.upper(), ours, n=1, cutoff=_NEARLY)
        if meant and not _OF_KUBERNETES.search(name.upper()):
            lines.append(f"  {name}: is no setting; {meant[0]} is")
        else:
            log_once(f"setting:{name}", "%s is no setting, and means nothing here", name)
    return lines


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    name = PREFIX + str(location[0]).upper()
    inside = "".join(f"[{part}]" for part in location[1:] if part != "[key]")
    return f"  {name}{inside}: " + ("is not set, and has no default" if kind == "missing" else message)
