"""The settings in groups, with their defaults. `per_program` combines the groups that a program needs."""

from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cachekeeper.settings.field_types import (
    LONGEST_SECONDS,
    ApiKeys,
    BrokerUrl,
    IdTypes,
    Modules,
    MongoUrl,
    RedisUrl,
    Seconds,
)
from cachekeeper.values.visible_text import clean

PREFIX = "CACHEKEEPER_"
DEFAULT_MODULES = ("producers", "lookups", "worker")


class SettingsGroup(BaseSettings):
    """Reads the environment. Blanks around a value are ignored; invisible characters inside a value are refused."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: Any, info: ValidationInfo) -> Any:
        # A list may have several lines, so each of its parts is cleaned separately.
        is_list = NoDecode in cls.model_fields[str(info.field_name)].metadata
        return clean(value) if isinstance(value, str) and not is_list else value


class RedisGroup(SettingsGroup):
    """The settings of Redis.

    Attributes:
        redis_url: the Redis server of the cache. It may evict keys.
        security_redis_url: the Redis server for sessions and blocks. It must not evict keys. Default: `redis_url`.
        redis_timeout_seconds: the time limit for connecting to Redis, and for each reply.
    """

    redis_url: RedisUrl = Field(repr=False)
    security_redis_url: RedisUrl = Field(default="", repr=False, validate_default=False)
    redis_timeout_seconds: Seconds = 0.5

    @property
    def security_url(self) -> str:
        """The URL of the Redis server for sessions and blocks."""
        return self.security_redis_url or self.redis_url


class MongoGroup(SettingsGroup):
    """The settings of MongoDB.

    Attributes:
        mongodb_url: the URL of MongoDB, with the database in its path.
        load_timeout_seconds: the time limit for one database read, and for one batch of writes.
    """

    mongodb_url: MongoUrl = Field(repr=False)
    load_timeout_seconds: Seconds = 2.0


class BrokerGroup(SettingsGroup):
    """The broker, for a program that can run without one.

    Attributes:
        broker_url: the URL of the broker; only publishers and workers need one.
        publish_timeout_seconds: the time limit for one publish, its retry included.
    """

    broker_url: BrokerUrl | None = Field(default=None, repr=False)
    publish_timeout_seconds: Seconds = 5.0


class RequiredBrokerGroup(BrokerGroup):
    """The broker, for a program that needs one.

    Attributes:
        broker_url: the URL of the broker.
    """

    broker_url: BrokerUrl = Field(repr=False)


class ModulesGroup(SettingsGroup):
    """The modules that register events.

    Attributes:
        modules: packages that register views, events and handlers, each with a function `register(registry)`.
    """

    modules: Modules = DEFAULT_MODULES


class PolicyGroup(ModulesGroup):
    """The modules that register views, events and handlers, and the types of the views' ids.

    Attributes:
        id_types: how ids map to `_id`, by view name. Other views keep their own type (default `auto`).
    """

    id_types: IdTypes = Field(default_factory=dict)


class ReadingGroup(SettingsGroup):
    """Time limits of lookups, and limits of the cache.

    Attributes:
        lookup_timeout_seconds: the time limit for one lookup in all cases, a wait for the load of another lookup
            included.
        lease_seconds: how long a reader may hold a lease, the right to fill a key.
        redelivery_seconds: how late a broker may deliver an event again. Markers and deadlines live longer than this.
        negative_ttl_seconds: how long the cache remembers 'does not exist'.
        load_concurrency: the largest number of database reads at the same time, per process.
        block_leeway_seconds: how much longer than its token a block lasts.
        text_limit_chars: longer search texts are answered from MongoDB and not cached.
        value_limit_bytes: larger values are returned and not cached.
        read_concern: `majority`; or `linearizable`, so that a deposed primary cannot answer.
    """

    lookup_timeout_seconds: Seconds = 5.0
    lease_seconds: Seconds = 10.0
    redelivery_seconds: Seconds = 3600.0
    negative_ttl_seconds: Seconds = 30.0
    load_concurrency: PositiveInt = 16
    block_leeway_seconds: float = Field(default=60.0, ge=0, le=LONGEST_SECONDS)
    text_limit_chars: int = Field(default=64, ge=1, le=512)
    value_limit_bytes: PositiveInt = 1024 * 1024
    read_concern: Literal["majority", "linearizable"] = "majority"

    @field_validator("lookup_timeout_seconds", "lease_seconds")
    @classmethod
    def _outlasts_a_load(cls, value: float, info: ValidationInfo) -> float:
        load, call = info.data.get("load_timeout_seconds"), info.data.get("redis_timeout_seconds")
        if load is None or call is None:
            return value  # the missing field has an error of its own
        one_load = load + 2 * call
        if value <= one_load:
            raise ValueError(
                "must be longer than one load and two Redis calls: set it to more than "
                f"CACHEKEEPER_LOAD_TIMEOUT_SECONDS + 2 * CACHEKEEPER_REDIS_TIMEOUT_SECONDS, which is {one_load:g}"
            )
        return value

    @property
    def lease_ms(self) -> int:
        """`lease_seconds` in milliseconds, for the protocol."""
        return round(self.lease_seconds * 1000)

    @property
    def negative_ms(self) -> int:
        """`negative_ttl_seconds` in milliseconds, for the protocol."""
        return round(self.negative_ttl_seconds * 1000)

    @property
    def marker_ms(self) -> int:
        """The lifetime of a marker in milliseconds: longer than the longest load and the latest redelivery."""
        return round((self.redelivery_seconds + self.lease_seconds + self.lookup_timeout_seconds) * 1000)


class OutboxGroup(SettingsGroup):
    """The outbox's relay.

    Attributes:
        outbox_retry_seconds: how long the relay waits for an event to be applied before it publishes the event again.
            The wait doubles each time, up to 32 times this value.
        outbox_limit_events: the largest number of events that are published from the outbox and not yet applied.
    """

    outbox_retry_seconds: Seconds = 30.0
    outbox_limit_events: PositiveInt = 20_000


class DeadLetterGroup(SettingsGroup):
    """The settings of dead letters.

    Attributes:
        dead_letter_seconds: how long a dead letter is kept after the last failure of its event.
    """

    dead_letter_seconds: Seconds = 30 * 86_400.0


class HttpGroup(SettingsGroup):
    """The HTTP door: the HTTP API that takes events.

    Attributes:
        http_api_keys: each key gives access. With several, a new key can be handed out before the old one is removed.
        http_body_limit_bytes: the largest body of a request.
        http_batch_limit_events: the largest number of events in a request.
    """

    http_api_keys: ApiKeys = Field(repr=False)
    http_body_limit_bytes: PositiveInt = 1024 * 1024
    http_batch_limit_events: PositiveInt = 1000
