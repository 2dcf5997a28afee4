"""The keeper: settings, clients, stores and readers, made at first use and given back by `close`."""

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

    Safe across threads and forks (a child makes its own clients; one passed in must be safe there itself).

    Args:
        settings: default: from the environment, at first use.
        cache: a redis-py client of your own for the cache, best from `make_redis_client(url)`. Any other must answer
            bytes, never send a command twice, and look for unread replies: `redis.Redis(protocol=2, socket_timeout=…,
            socket_connect_timeout=…, retry=Retry(NoBackoff(), 0))`. Between two callers it still has a window, in which
            a reply that is late enough reaches the next one (docs/operations.md).
        security: the same for sessions and blocks; default: `cache` where that is given.
        database: a pymongo database of your own.

    Clients of your own are not closed by `close`, and bring their own time limits: one without them lets a lookup take
    as long as its server likes.

    Raises:
        TypeError: what is given is asynchronous, a mock or anything else than a client or a database; a Redis client of
            your own answers text (`decode_responses=True`), retries or has maintenance
            notifications on, as redis-py's do unless told not to, or a client-side cache or a single connection. Or
            `settings` must be `Settings`, and is of another type, such as a URL.
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
        """The protocol on one of the two servers.

        Raises:
            SettingsError: the settings are wrong, as for everything here that needs them.
        """
        return self._parts().readers[server].store

    @property
    def reads(self) -> DatabaseReads:
        """The reads of MongoDB that lookups share, with their time limit and their cap. Raises SettingsError."""
        return self._parts().database

    @property
    def database(self) -> Database[Any]:
        """MongoDB, with majority reads of the primary and majority writes. Raises SettingsError."""
        return self._parts().database.database

    def may_evict(self, server: Server) -> bool:
        """Whether that Redis drops keys by itself. Raises CacheUnavailable, SettingsError."""
        return self._parts().eviction[server].may_evict()

    def binding(self, view: AnyView) -> Binding:
        """The view's numbers under these settings. Raises SettingsError."""
        found = self._bindings.get(view)
        if found is None:
            with self._lock:
                found = self._bindings.setdefault(view, Binding(view, self._parts(), self.settings))
        return found

    def read(self, view: View[T], document_id: str | int, field: str = "id") -> T | Absent:
        """The value of one document: from Redis, else from MongoDB.

        Args:
            view: what to read.
            document_id: whose.
            field: how the caller names the id, for errors.

        Returns:
            The value, or `ABSENT`: it does not exist. Never for an outage.

        Raises:
            InvalidId: the id cannot be one.
            DatabaseUnavailable, Overloaded: neither Redis nor MongoDB could answer within the time limit.
            DatabaseBehind: MongoDB answered with less than an event has announced, until the time was up.
            CacheUnavailable: others write the key, too, Redis is away, and MongoDB does not have it.
            DamagedValue: others write the key, too, and what lies there cannot be read.
            DamagedDocument: what MongoDB has cannot be cached.
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
            except Exception as error:  # noqa: BLE001  # whatever a decoder raises, what lies there is damaged
                raw = decoder_failed(view.name, error)
        if raw is ABSENT:
            return ABSENT
        return binding.reader.find(self._target(view, binding, key, part, field), binding.ttl_ms, raw, began)

    def read_through(self, view: View[T], document_id: str) -> T | Absent:
        """Like `read`, for the sake of the key: an empty one is filled, unless somebody else holds its lease too long.

        Raises:
            CacheUnavailable: Redis is away. It is asked even if it was away a moment ago.
            DatabaseUnavailable, Overloaded, DatabaseBehind, DamagedValue, DamagedDocument, ViewFailed: as `read`.
            SettingsError: the settings are wrong.
        """
        began = time.monotonic()
        binding = self.binding(view)
        key = binding.prefix + document_id + binding.suffix
        target = self._target(view, binding, key, document_id, "id")
        return binding.reader.find(target, binding.ttl_ms, Start.UNASKED, began)

    def search(self, view: TextView[T], text: str, field: str = "text") -> T:
        """What a text finds: from Redis, else from MongoDB.

        Raises:
            InvalidText: the text cannot be one.
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
        return cast("T", found)  # a search that finds nothing is a value: the empty list

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
        """Write a document, and through to its key. When this returns, a majority holds it and the key is filled.

        A process that is killed in between leaves the value before at the key, until its time to live is over.

        Args:
            view: whose document, and whose key. Its version field is raised by itself.
            document_id: whose; the document is made where there is none.
            fields: what to set.
            computed: what MongoDB is to compute, as in `$set` within a pipeline: `{"at": "$$NOW"}`.
            final: a field that ends a document for good: one in which it is set is not written any more.
            field: how the caller names the id, for errors.

        Raises:
            InvalidId: the id cannot be one.
            InvalidValue, TypeError: the fields cannot be set, or hold what MongoDB cannot store; nothing was written.
            DocumentEnded: it had ended before, or ended meanwhile.
            WriteRefused: the collection forbids it, or the document would be too large; nothing was written.
            DatabaseUnavailable: MongoDB failed; nothing is known to be written.
            PersistedNotCached: MongoDB has it, Redis failed. Try again; it is safe.
            DamagedDocument, ViewFailed: it is written, and the view cannot read it; or (`ViewFailed`) MongoDB refuses
                what is computed, and nothing is written.
        """
        part = check_id(document_id, field)
        stored, collection = self.binding(view).ids.parse(part, field), self.database[view.collection]
        store, fill = self.store(view.server), partial(self.read_through, view, part)
        WriteThrough(view, part, stored, collection, store, self.settings, fill).save(fields, computed, final)

    def is_blocked(self, view: BlocklistView, document_id: str | int, field: str = "id") -> bool:
        """Whether an id is on a blocklist.

        Raises:
            InvalidId: the id cannot be one.
            DatabaseUnavailable, Overloaded: neither Redis nor MongoDB could answer. Never False for that.
            SettingsError: the settings are wrong (at first use).
            TypeError: the view is no blocklist.
        """
        blocklist = (self._bindings.get(view) or self.binding(view)).blocklist
        if blocklist is None:
            raise TypeError(f"view {view.name} is no blocklist")
        return blocklist.is_blocked(check_id(document_id, field))

    def close(self) -> None:
        """Give back the connections. The keeper makes new ones if it is used again.

        Another thread that is in the middle of a lookup ends it, perhaps with an `Unavailable`.
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
