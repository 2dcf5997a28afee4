"""The settings in groups, each with its default in one place; `per_program` puts together what a program needs."""

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
    """Reads the environment. Blanks around a value are nothing; what cannot be seen inside one is refused."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _clean(cls, value: Any, info: ValidationInfo) -> Any:
        # A list may stand on several lines: each of its parts is cleaned by itself.
        is_list = NoDecode in cls.model_fields[str(info.field_name)].metadata
        return clean(value) if isinstance(value, str) and not is_list else value


class RedisGroup(SettingsGroup):
    """Redis.

    Attributes:
        redis_url: the cache. May evict.
        security_redis_url: where sessions and blocks live; must not evict. Default: `redis_url`.
        redis_timeout_seconds: for connecting to Redis, and for each answer.
    """

    redis_url: RedisUrl = Field(repr=False)
    security_redis_url: RedisUrl = Field(default="", repr=False, validate_default=False)
    redis_timeout_seconds: Seconds = 0.5

    @property
    def security_url(self) -> str:
        """Where sessions and blocks live."""
        return self.security_redis_url or self.redis_url


class MongoGroup(SettingsGroup):
    """MongoDB.

    Attributes:
        mongodb_url: MongoDB, with the database in its path.
        load_timeout_seconds: for one database read, and for what is written at once.
    """

    mongodb_url: MongoUrl = Field(repr=False)
    load_timeout_seconds: Seconds = 2.0


class BrokerGroup(SettingsGroup):
    """The broker, for a program that may do without one.

    Attributes:
        broker_url: the broker; only publishers and workers need one.
        publish_timeout_seconds: for one publish, retry included.
    """

    broker_url: BrokerUrl | None = Field(default=None, repr=False)
    publish_timeout_seconds: Seconds = 5.0


class RequiredBrokerGroup(BrokerGroup):
    """The broker, for a program that needs one.

    Attributes:
        broker_url: the broker.
    """

    broker_url: BrokerUrl = Field(repr=False)


class ModulesGroup(SettingsGroup):
    """Which events there are.

    Attributes:
        modules: packages that register views, events and handlers, each with a function `register(registry)`.
    """

    modules: Modules = DEFAULT_MODULES


class PolicyGroup(ModulesGroup):
    """Which views, events and handlers there are, and how the views' ids are read.

    Attributes:
        id_types: how ids map to `_id`, by view name; views not named keep their own (`auto`).
    """

    id_types: IdTypes = Field(default_factory=dict)


class ReadingGroup(SettingsGroup):
    """How long a lookup may take, and what the cache holds, for how long.

    Attributes:
        lookup_timeout_seconds: for one lookup, whatever happens; also the longest a lookup waits for another's load.
        lease_seconds: how long a reader may hold the right to fill.
        redelivery_seconds: how late a broker may deliver an event again; markers and deadlines outlive it.
        negative_ttl_seconds: how long 'does not exist' is remembered.
        load_concurrency: database reads at once, per process.
        block_leeway_seconds: how much longer than its token a block lasts.
        text_limit_chars: longer search texts are answered from MongoDB and not cached.
        value_limit_bytes: larger values are returned and not cached.
        read_concern: `majority`, or `linearizable` where a deposed primary must not answer either.
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
            return value  # the one that is missing is wrong itself
        one_load = load + 2 * call
        if value <= one_load:
            raise ValueError(
                "must outlast one load and two calls of Redis: "
                f"more than LOAD_TIMEOUT_SECONDS + 2 * REDIS_TIMEOUT_SECONDS, here {one_load:g}"
            )
        return value

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


class OutboxGroup(SettingsGroup):
    """The outbox's relay.

    Attributes:
        outbox_retry_seconds: how long the relay waits for an event to be applied before it publishes it again; each
            further time twice as long, up to 32 times.
        outbox_limit_events: events that are published from the outbox and not yet applied, at most.
    """

    outbox_retry_seconds: Seconds = 30.0
    outbox_limit_events: PositiveInt = 20_000


class DeadLetterGroup(SettingsGroup):
    """Dead letters.

    Attributes:
        dead_letter_seconds: how long a dead letter is kept after the last time that its event failed.
    """

    dead_letter_seconds: Seconds = 30 * 86_400.0


class HttpGroup(SettingsGroup):
    """The HTTP door.

    Attributes:
        http_api_keys: each opens the door; several, so that a new one can be handed out before the old one is void.
        http_body_limit_bytes: for the body of one request.
        http_batch_limit_events: for one request.
    """

    http_api_keys: ApiKeys = Field(repr=False)
    http_body_limit_bytes: PositiveInt = 1024 * 1024
    http_batch_limit_events: PositiveInt = 1000
