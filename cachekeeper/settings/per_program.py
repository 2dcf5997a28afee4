"""Which groups of settings each kind of program reads."""

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


# pydantic reads the last base first: Redis and MongoDB, whose time limits a lookup's is compared with, then the others.
class Settings(DeadLetterGroup, OutboxGroup, ReadingGroup, PolicyGroup, BrokerGroup, MongoGroup, RedisGroup):
    """Everything an operator can set but for the HTTP door's, each field under `CACHEKEEPER_` and its name in capitals.

    Times are seconds. The groups say what each field means.
    """


class WorkerSettings(RequiredBrokerGroup, Settings):
    """What a worker needs: all of them, and a broker."""


class PublisherSettings(RequiredBrokerGroup):
    """All that a service needs which only publishes: it is told neither where Redis is nor where MongoDB is."""


class DoorSettings(HttpGroup, ModulesGroup, PublisherSettings):
    """What the HTTP door needs: it is told neither where Redis is nor where MongoDB is."""


class OutboxSettings(MongoGroup):
    """What it takes to look into the outbox."""


class LetterSettings(ModulesGroup, OutboxSettings):
    """What it takes to look into the dead letters; the events that the modules register say what is masked."""


class ReplaySettings(LetterSettings, PublisherSettings):
    """What it takes to publish dead letters again: MongoDB and the broker, no Redis."""


class RelaySettings(OutboxGroup, OutboxSettings, PublisherSettings):
    """What the outbox's relay needs: MongoDB and the broker, no Redis."""


class PolicySettings(PolicyGroup):
    """What it takes to load the registry: which views, events and handlers there are, and the views' ids."""


class StreamSettings(OutboxSettings, PolicySettings):
    """What the change stream's relay needs: MongoDB alone."""
