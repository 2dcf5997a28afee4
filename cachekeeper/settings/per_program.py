"""The settings of each program: which groups it reads."""

from cachekeeper.settings.groups import (
    BrokerGroup,
    DeadLetterGroup,
    HttpGroup,
    ModulesGroup,
    MongoGroup,
    OutboxGroup,
    PolicyGroup,
    ReadingGroup,
    RedisGroup,
    RequiredBrokerGroup,
)


# pydantic reads the last base class first. Redis and MongoDB are last: a lookup's time limit is checked against theirs.
class Settings(DeadLetterGroup, OutboxGroup, ReadingGroup, PolicyGroup, BrokerGroup, MongoGroup, RedisGroup):
    """All settings except those of the HTTP door. The variable of a field is `CACHEKEEPER_` and its name in capitals.

    Times are in seconds. The groups describe each field.
    """


class WorkerSettings(RequiredBrokerGroup, Settings):
    """The settings of a worker: all of them. A broker is required."""


class PublisherSettings(RequiredBrokerGroup):
    """The settings of a service that only publishes. It does not get the URLs of Redis and MongoDB."""


class DoorSettings(HttpGroup, ModulesGroup, PublisherSettings):
    """The settings of the HTTP door. It does not get the URLs of Redis and MongoDB."""


class OutboxSettings(MongoGroup):
    """The settings to read the outbox."""


class LetterSettings(ModulesGroup, OutboxSettings):
    """The settings to read dead letters. The events that the modules register say which fields to mask."""


class ReplaySettings(LetterSettings, PublisherSettings):
    """The settings to publish dead letters again: MongoDB and the broker, without Redis."""


class RelaySettings(OutboxGroup, OutboxSettings, PublisherSettings):
    """The settings of the outbox's relay: MongoDB and the broker, without Redis."""


class PolicySettings(PolicyGroup):
    """The settings to load the registry: the modules that fill it, and the types of the views' ids."""


class StreamSettings(OutboxSettings, PolicySettings):
    """The settings of the change stream's relay: MongoDB and the registry, without Redis and the broker."""
