"""The keeper: owns settings, clients, stores and readers, makes them at first use, and closes them in `close`."""

from __future__ import annotations

import threading
import time
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cachekeeper.connections.mongodb import check_database
from cachekeeper.connections.redis_clients import check_redis_client, disconnect
from cachekeeper.model.sources import ABSENT
from cachekeeper.model.views import AnyView, Server
from cachekeeper.protocol import Registration
from cachekeeper.reading.binding import Binding
from cachekeeper.reading.core import Start, Target, decoder_failed
from cachekeeper.reading.saving import WriteThrough
from cachekeeper.reading.servers import Servers, connected
from cachekeeper.runtime.forks import after_fork
from cachekeeper.settings import Settings, check_settings, load_settings
from cachekeeper.values import fold
from cachekeeper.values.ids import check_id
from cachekeeper.values.keys import check_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymongo.database import Database
    from redis import Redis, RedisCluster

    from cachekeeper.connections.mongodb import DatabaseReads
    from cachekeeper.model.sources import Absent
    from cachekeeper.model.views import BlocklistView, TextView, View
    from cachekeeper.protocol import Store

T = TypeVar("T")


class Keeper:
    """The engine for one process: looks up views, Redis first and MongoDB second.

    Safe across threads and forks: a child process makes its own clients. A client of yours must itself be fork-safe.

    Args:
        settings: default: from the environment, at first use.
        cache: a redis-py client of your own for the cache, best from `make_redis_client(url)`. Any other must return
            bytes, never retry, and check for unread replies: `redis.Redis(protocol=2, socket_timeout=…,
            socket_connect_timeout=…, retry=Retry(NoBackoff(), 0))`. Even then, a reply that comes late enough, between
            two callers, can reach the second one (docs/operations/redis-client.md).
        security: the same for sessions and blocks; default: `cache` if that is given.
        database: a pymongo database of your own.

    `close` does not close clients of your own. They keep their own time limits: without limits, a lookup may take as
    long as the server takes.

    Raises:
        TypeError: an argument is asynchronous, a mock, or not a client or database at all. A Redis client of your own
            returns text (`decode_responses=True`), retries, or has maintenance notifications on (redis-py's default),
            a client-side cache or a single connection. Or `settings` is not `Settings`, but a URL, for example.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        cache: Redis | RedisCluster | None = None,
        security: Redis | RedisCluster | None = None,
        database: Database[Any] | None = None,
    ) -> None:
        for field, client in (("cache", cache), ("security", security)):
            if client is not None:
                check_redis_client(client, field)
        if database is not None:
            check_database(database)
        if settings is not None:
            check_settings(settings, Settings, url="redis_url")
        self._settings = settings
        self._given = (cache, cache if security is None else security, database)
        self._lock = threading.RLock()
        self._made: Servers | None = None
        self._bindings: dict[object, Binding] = {}
        after_fork(self, Keeper._after_fork)

    @property
    def settings(self) -> Settings:
        """The settings, read from the environment at first use.

        Raises:
            SettingsError: they are wrong.
        """
        with self._lock:
            if self._settings is None:
                self._settings = load_settings()
            return self._settings

    def store(self, server: Server) -> Store:
        """Return the protocol on one of the two servers.

        Raises:
            SettingsError: the settings are wrong. Everything here that needs them raises it.
        """
        return self._parts().readers[server].store

    @property
    def reads(self) -> DatabaseReads:
        """The reads of MongoDB that lookups share, with their time limit and concurrency cap. Raises SettingsError."""
        return self._parts().database

    @property
    def database(self) -> Database[Any]:
        """MongoDB, with majority reads of the primary and majority writes. Raises SettingsError."""
        return self._parts().database.database

    def may_evict(self, server: Server) -> bool:
        """Return whether that Redis may evict keys. Raises CacheUnavailable, SettingsError."""
        return self._parts().eviction[server].may_evict()

    def binding(self, view: AnyView) -> Binding:
        """Return the view's numbers and reader under these settings. Raises SettingsError."""
        found = self._bindings.get(view)
        if found is None:
            with self._lock:
                found = self._bindings.setdefault(view, Binding(view, self._parts(), self.settings))
        return found

    def read(self, view: View[T], document_id: str | int, field: str = "id") -> T | Absent:
        """Return the value of one document: from Redis, else from MongoDB.

        Args:
            view: the view to read.
            document_id: id of the document.
            field: name of the id in error texts.

        Returns:
            The value, or `ABSENT` if the document does not exist. An outage never returns `ABSENT`.

        Raises:
            InvalidId: the value cannot be an id.
            DatabaseUnavailable, Overloaded: neither Redis nor MongoDB could answer within the time limit.
            DatabaseBehind: until the time was up, MongoDB had an older version than an event has announced.
            CacheUnavailable: the view is shared, Redis is unavailable, and MongoDB does not have the document.
            DamagedValue: the view is shared, and the value at the key cannot be read.
            DamagedDocument: the document in MongoDB cannot be cached.
            ViewFailed: the view's own loader or codec raised, or MongoDB refuses its query.
            SettingsError: the settings are wrong (at first use).
        """
        began = time.monotonic()
        binding = self._bindings.get(view) or self.binding(view)
        part = check_id(document_id, field)
        key = binding.prefix + part + binding.suffix
        raw = binding.reader.peek(key) if binding.shared else binding.reader.get(key)
        if isinstance(raw, bytes):
            try:
                return cast("T", binding.decode(raw))
            except Exception as error:  # noqa: BLE001  # any error of a decoder means that the value is damaged
                raw = decoder_failed(view.name, error)
        if raw is ABSENT:
            return ABSENT
        return binding.reader.find(self._target(view, binding, key, part, field), binding.ttl_ms, raw, began)

    def read_through(self, view: View[T], document_id: str) -> T | Absent:
        """Read as `read` does, in order to fill an absent key. It stays absent if another holds its lease too long.

        Raises:
            CacheUnavailable: Redis is unavailable. It is asked even if it was unavailable a moment ago.
            DatabaseUnavailable, Overloaded, DatabaseBehind, DamagedValue, DamagedDocument, ViewFailed: as `read`.
            SettingsError: the settings are wrong.
        """
        began = time.monotonic()
        binding = self.binding(view)
        key = binding.prefix + document_id + binding.suffix
        target = self._target(view, binding, key, document_id, "id")
        return binding.reader.find(target, binding.ttl_ms, Start.UNASKED, began)

    def search(self, view: TextView[T], text: str, field: str = "text") -> T:
        """Return what a search text finds: from Redis, else from MongoDB.

        Raises:
            InvalidText: the value cannot be a search text.
            DatabaseUnavailable, Overloaded, DatabaseBehind, DamagedValue, DamagedDocument, ViewFailed: as `read`.
            SettingsError: the settings are wrong.
        """
        began = time.monotonic()
        binding = self._bindings.get(view) or self.binding(view)
        folded = fold.fold(check_text(text, field))
        key = binding.prefix + fold.escape_braces(folded) + binding.suffix
        start: Start | None = None
        if len(folded) <= binding.text_limit:
            raw = binding.reader.get(key)
            if isinstance(raw, Start):
                start = raw
            else:
                try:
                    return cast("T", binding.decode(raw))
                except Exception as error:  # noqa: BLE001  # as in `read`
                    start = decoder_failed(view.name, error)
        registration = Registration(view.filter_key, folded, binding.life_ms)
        target = Target(view.name, key, view.query(folded), view.interpret, view.codec, registration=registration)
        if start is None:
            found = binding.reader.find_uncached(target, began)
        else:
            found = binding.reader.find(target, binding.ttl_ms, start, began)
        return cast("T", found)  # a search without matches has a value, too: the empty list

    def save(
        self,
        view: View[Any],
        document_id: str | int,
        fields: Mapping[str, object],
        *,
        computed: Mapping[str, Any] = MappingProxyType({}),
        final: str | None = None,
        field: str = "id",
    ) -> None:
        """Write a document, then its key. When this returns, a majority holds the document and the key is filled.

        If the process is killed in between, the previous value stays at the key until its time to live ends.

        Args:
            view: the view of the document and its key. Its version field rises automatically.
            document_id: id of the document, which is created if it does not exist.
            fields: the fields to set.
            computed: fields that MongoDB computes, as in `$set` within a pipeline: `{"at": "$$NOW"}`.
            final: a field that ends a document for good: once it is set, the document is not written any more.
            field: name of the id in error texts.

        Raises:
            InvalidId: the value cannot be an id.
            InvalidValue, TypeError: the fields cannot be set, or MongoDB cannot store a value; nothing was written.
            DocumentEnded: the document had ended before, or ended during the save.
            WriteRefused: the collection forbids the write, or the document would be too large; nothing was written.
            DatabaseUnavailable: MongoDB failed; it is unknown whether the document was written.
            PersistedNotCached: MongoDB has the document, but Redis failed. Save again; it is safe.
            DamagedDocument, ViewFailed: the document is written, but the view cannot read it; or (`ViewFailed`)
                MongoDB refuses a computed field, and nothing is written.
        """
        part = check_id(document_id, field)
        stored, collection = self.binding(view).ids.parse(part, field), self.database[view.collection]
        store, fill = self.store(view.server), partial(self.read_through, view, part)
        WriteThrough(view, part, stored, collection, store, self.settings, fill).save(fields, computed, final)

    def is_blocked(self, view: BlocklistView, document_id: str | int, field: str = "id") -> bool:
        """Return whether an id is on a blocklist. An outage never returns False.

        Raises:
            InvalidId: the value cannot be an id.
            DatabaseUnavailable, Overloaded: neither Redis nor MongoDB could answer.
            SettingsError: the settings are wrong (at first use).
            TypeError: the view is not a blocklist.
        """
        blocklist = (self._bindings.get(view) or self.binding(view)).blocklist
        if blocklist is None:
            raise TypeError(f"view {view.name} is not a blocklist: pass a BlocklistView")
        return blocklist.is_blocked(check_id(document_id, field))

    def close(self) -> None:
        """Close the connections. The keeper makes new ones if it is used again.

        A lookup that runs in another thread ends, perhaps with an `Unavailable` error.
        """
        with self._lock:
            made, self._made = self._made, None
            self._bindings = {}
        if made is None:
            return
        cache, security, database = self._given
        if cache is None:
            disconnect(made.readers[Server.CACHE].store.source)
        if security is None:
            disconnect(made.readers[Server.SECURITY].store.source)
        if database is None:
            made.database.database.client.close()

    def _target(self, view: View[T], binding: Binding, key: str, part: str, field: str) -> Target[T]:
        find = view.query([binding.ids.parse(part, field)])
        return Target(
            view.name,
            key,
            find,
            lambda documents: view.interpret(documents[0] if documents else None),
            view.codec,
            view.staleness,
        )

    def _parts(self) -> Servers:
        with self._lock:
            if self._made is None:
                self._made = connected(self.settings, *self._given)
            return self._made

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._made = None
        self._bindings = {}
