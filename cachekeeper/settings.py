"""Settings: the environment, read once, into one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cachekeeper.errors import SettingsError
from cachekeeper.ids import IdType

PREFIX = "CACHEKEEPER_"
S = TypeVar("S", bound=BaseSettings)


def _url(*schemes: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        # The value stays out of the message: it may hold a password.
        if value is None:
            return value
        try:
            parts = urlsplit(str(value))
            fits = parts.scheme in schemes and bool(parts.netloc or parts.scheme == "unix")
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return str(value)

    return BeforeValidator(check)


def _names_its_database(value: Any) -> Any:
    if not urlsplit(str(value)).path.strip("/"):
        raise ValueError("must name its database, as in mongodb://host:27017/shop")
    return value


def _list(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _pairs(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not sign for _, sign, _ in pairs):
        raise ValueError("write view=type pairs with commas between, as in user_name=objectid,session=str")
    return {name.strip(): kind.strip() for name, _, kind in pairs}


RedisUrl = Annotated[str, _url("redis", "rediss", "unix", "redis+cluster", "rediss+cluster")]
BrokerUrl = Annotated[str, _url("amqp", "amqps", "redis", "rediss")]
MongoUrl = Annotated[str, BeforeValidator(_names_its_database), _url("mongodb", "mongodb+srv")]


class Settings(BaseSettings):
    """Everything an operator can set, each field under `CACHEKEEPER_` and its name in capitals. Times are seconds.

    Attributes:
        redis_url: the cache. May evict.
        security_redis_url: where sessions and blocks live; must not evict. Default: `redis_url`.
        mongodb_url: MongoDB, with the database in its path.
        broker_url: the broker; only publishers and workers need one.
        modules: packages that register views, events and handlers, each with a function `register(registry)`.
        id_types: how ids map to `_id`, by view name; views not named keep their own (`auto`).
        redis_timeout_seconds: for connecting to Redis, and for each answer.
        load_timeout_seconds: for one database read.
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
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    redis_url: RedisUrl = Field(repr=False)
    security_redis_url: RedisUrl = Field(default="", repr=False, validate_default=False)
    mongodb_url: MongoUrl = Field(repr=False)
    broker_url: BrokerUrl | None = Field(default=None, repr=False)
    modules: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_list)] = ("producers", "lookups", "worker")
    id_types: Annotated[Mapping[str, IdType], NoDecode, BeforeValidator(_pairs)] = Field(default_factory=dict)
    redis_timeout_seconds: PositiveFloat = 0.5
    load_timeout_seconds: PositiveFloat = 2.0
    lookup_timeout_seconds: PositiveFloat = 5.0
    lease_seconds: PositiveFloat = 10.0
    redelivery_seconds: PositiveFloat = 3600.0
    negative_ttl_seconds: PositiveFloat = 30.0
    load_concurrency: PositiveInt = 16
    block_leeway_seconds: float = Field(default=60.0, ge=0)
    text_limit_chars: int = Field(default=64, ge=1, le=512)
    value_limit_bytes: PositiveInt = 1024 * 1024
    read_concern: Literal["majority", "linearizable"] = "majority"
    publish_timeout_seconds: PositiveFloat = 5.0

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        one_load = self.load_timeout_seconds + 2 * self.redis_timeout_seconds
        if self.lookup_timeout_seconds <= one_load:
            raise ValueError(
                f"{PREFIX}LOOKUP_TIMEOUT_SECONDS: must leave room for one load and two calls of Redis: more than "
                f"LOAD_TIMEOUT_SECONDS + 2 * REDIS_TIMEOUT_SECONDS, here {one_load:g}"
            )
        if self.lease_seconds <= one_load:
            raise ValueError(
                f"{PREFIX}LEASE_SECONDS: must outlast the load it covers: more than "
                f"LOAD_TIMEOUT_SECONDS + 2 * REDIS_TIMEOUT_SECONDS, here {one_load:g}"
            )
        return self

    @property
    def security_url(self) -> str:
        """Where sessions and blocks live."""
        return self.security_redis_url or self.redis_url

    @property
    def marker_seconds(self) -> float:
        """How long a marker lives: longer than the longest load and the latest redelivery."""
        return self.redelivery_seconds + self.lease_seconds + self.lookup_timeout_seconds


class WorkerSettings(Settings):
    """What a worker needs: all of them, and a broker."""

    broker_url: BrokerUrl = Field(repr=False)


class PublisherSettings(BaseSettings):
    """All that a service needs which only publishes: it is told neither where Redis is nor where MongoDB is.

    Attributes:
        broker_url: the broker.
        publish_timeout_seconds: for one publish, retry included.
    """

    model_config = Settings.model_config

    broker_url: BrokerUrl = Field(repr=False)
    publish_timeout_seconds: PositiveFloat = 5.0


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
    try:
        return kind(**overrides)
    except ValidationError as error:
        lines = [
            _line(problem["loc"], problem["type"], problem["msg"]) for problem in error.errors(include_input=False)
        ]
        raise SettingsError("\n".join(["The settings are wrong:", *lines])) from None


def _line(location: tuple[int | str, ...], kind: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    if not location:  # from _fit_together, which names the variable itself
        return f"  {message}"
    name = PREFIX + str(location[0]).upper()
    inside = "".join(f"[{part}]" for part in location[1:] if part != "[key]")
    return f"  {name}{inside}: " + ("is not set, and has no default" if kind == "missing" else message)
