"""Keeps a Redis cache true to MongoDB. The engine: it knows no user, session, token or product.

What a package of your own needs for its events, views and handlers is here, in one flat list; the errors are drawn in
`cachekeeper.errors`. Importing it imports no Celery and connects to nothing.
"""

from cachekeeper.changes import UNKNOWN, Change, Unknown, Watch
from cachekeeper.codecs import Codec, Json, Text
from cachekeeper.commands import (
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
from cachekeeper.errors import (
    BrokerUnavailable,
    BufferFull,
    CachekeeperError,
    CacheUnavailable,
    Damaged,
    DamagedDocument,
    DamagedValue,
    DatabaseBehind,
    DatabaseUnavailable,
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
)
from cachekeeper.events import CollectionChanged, Event, Id, Moment, Name, Version
from cachekeeper.ids import IdType
from cachekeeper.keeper import Keeper, close, default_keeper
from cachekeeper.loaders import ABSENT, Absent, Document, Query
from cachekeeper.metrics import COUNTERS
from cachekeeper.registry import Registry, TtlIndex, load_registry
from cachekeeper.settings import Settings, load_settings
from cachekeeper.views import BlocklistView, Server, Staleness, TextView, View

__all__ = [
    "ABSENT",
    "COUNTERS",
    "UNKNOWN",
    "Absent",
    "Block",
    "BlocklistView",
    "BrokerUnavailable",
    "BufferFull",
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
    "Watch",
    "Write",
    "changed",
    "close",
    "default_keeper",
    "load_registry",
    "load_settings",
]
