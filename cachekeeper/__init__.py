"""Keeps a Redis cache true to MongoDB. This is the engine: it has no code for users, sessions, tokens or products.

A package of your own imports everything for its events, views and handlers from here, one flat list of names.
`cachekeeper.errors` shows the errors as a tree. Importing this package does not import Celery and opens no connection.
"""

from cachekeeper.connections.redis_clients import make_redis_client
from cachekeeper.errors import (
    BrokerUnavailable,
    BufferFull,
    CachekeeperError,
    CacheOverloaded,
    CacheUnavailable,
    Damaged,
    DamagedDocument,
    DamagedValue,
    DatabaseBehind,
    DatabaseUnavailable,
    DocumentEnded,
    InputError,
    InvalidEvent,
    InvalidId,
    InvalidText,
    InvalidTime,
    InvalidValue,
    InvalidVersion,
    NoTransaction,
    Overloaded,
    PersistedNotCached,
    RegistrationError,
    SettingsError,
    Unavailable,
    UnknownEvent,
    ViewFailed,
    WriteRefused,
)
from cachekeeper.metrics import COUNTERS
from cachekeeper.model.changes import UNKNOWN, Change, Unknown, Watch
from cachekeeper.model.commands import (
    Block,
    Command,
    Expire,
    Invalidate,
    InvalidateAll,
    InvalidateWithin,
    Persist,
    Write,
    changed,
)
from cachekeeper.model.event_field_types import Id, Moment, Name, Version
from cachekeeper.model.events import CollectionChanged, Event
from cachekeeper.model.registry import Registry, TtlIndex, load_registry
from cachekeeper.model.sources import ABSENT, Absent, Document, Query
from cachekeeper.model.updates import next_version
from cachekeeper.model.views import BlocklistView, Server, Staleness, TextView, View
from cachekeeper.reading.default_keeper import close, default_keeper, given_or_default
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings, load_settings
from cachekeeper.values.codecs import Codec, Json, Text, check_json
from cachekeeper.values.ids import IdType, check_id

__all__ = [
    "ABSENT",
    "COUNTERS",
    "UNKNOWN",
    "Absent",
    "Block",
    "BlocklistView",
    "BrokerUnavailable",
    "BufferFull",
    "CacheOverloaded",
    "CacheUnavailable",
    "CachekeeperError",
    "Change",
    "Codec",
    "CollectionChanged",
    "Command",
    "Damaged",
    "DamagedDocument",
    "DamagedValue",
    "DatabaseBehind",
    "DatabaseUnavailable",
    "Document",
    "DocumentEnded",
    "Event",
    "Expire",
    "Id",
    "IdType",
    "InputError",
    "InvalidEvent",
    "InvalidId",
    "InvalidText",
    "InvalidTime",
    "InvalidValue",
    "InvalidVersion",
    "Invalidate",
    "InvalidateAll",
    "InvalidateWithin",
    "Json",
    "Keeper",
    "Moment",
    "Name",
    "NoTransaction",
    "Overloaded",
    "Persist",
    "PersistedNotCached",
    "Query",
    "RegistrationError",
    "Registry",
    "Server",
    "Settings",
    "SettingsError",
    "Staleness",
    "Text",
    "TextView",
    "TtlIndex",
    "Unavailable",
    "Unknown",
    "UnknownEvent",
    "Version",
    "View",
    "ViewFailed",
    "Watch",
    "Write",
    "WriteRefused",
    "changed",
    "check_id",
    "check_json",
    "close",
    "default_keeper",
    "given_or_default",
    "load_registry",
    "load_settings",
    "make_redis_client",
    "next_version",
]
