"""The watch for a Redis that has come back with older data, which drops the views on it."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from cachekeeper.applying.drop_view import drop_view
from cachekeeper.errors import CachekeeperError, CacheUnavailable
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.model.view_kinds import Drop
from cachekeeper.model.views import AnyView, Server
from cachekeeper.protocol import cache_errors, new_nonce
from cachekeeper.runtime.periodic import PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cachekeeper.reading.keeper import Keeper


# It cannot be the mark of a view, whatever the view's name: marks end in `-incarnation`.
_EMPTY_KEY = "cachekeeper:was-empty"
PROBE_KEY = "cachekeeper:probe"
"""The key that a worker writes during a pause, to find out whether the server accepts writes."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a server's data: from a start, or from the promotion of a replica, to the next.

    Attributes:
        run_id: the id of the server's process.
        replication_id: the id of its history of writes.
        is_replica: whether the server only repeats the writes of another one.
        was_promoted: whether its history continues another one.
        was_empty: whether the server itself reports that it began without any data.
    """

    run_id: str
    replication_id: str
    is_replica: bool
    was_promoted: bool
    was_empty: bool

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Self:
        """Read it from the answers to `INFO`."""
        promoted = bool(str(info["master_replid2"]).strip("0"))
        return cls(
            run_id=str(info["run_id"]),
            replication_id=str(info["master_replid"]),
            is_replica=info["role"] != "master",
            was_promoted=promoted,
            # Redis 6.2 does not have this field, and the field does not count keys from an append-only file.
            was_empty=info.get("rdb_last_load_keys_loaded") == 0 and not info["aof_enabled"] and not promoted,
        )

    @property
    def mark(self) -> str:
        """The mark of a view whose keys were all written in this life."""
        return f"{self.run_id}:{self.replication_id}"

    def wrote(self, mark: str) -> bool:
        """Whether `mark` was made in this life.

        The replication id may also change within a life: when a first replica connects, or when the last one has been
        disconnected for long. But only a history that continues another one has a former id beside it.
        """
        run_id, _, replication_id = mark.partition(":")
        return run_id == self.run_id and (replication_id == self.replication_id or not self.was_promoted)


class RollbackWatch(PeriodicThread):
    """Drop the views of a server that has come back with older data, in a daemon thread of a worker.

    A server that starts from a snapshot or an append-only file, or a replica that is promoted, may hold values that
    events have replaced since, and may lack blocks. Each view has a mark on its server, which names the life of the
    data in which the view's keys were written. The mark is data, too, so older data has an older mark:

        mark: life 1 · snapshot · event · restart from the snapshot: life 2, mark still 1: drop, mark: life 2

    - A blocklist loses *ready*. Blocklists come first, since an old *ready* lets a token in. A view that other services
      write, too, keeps the keys without a document in MongoDB. Deadlines stay. See `drop_view`.
    - A missing mark causes no drop if the server began empty, if it was empty at some moment of this life, or if
      this worker has seen the mark in this life: then the server was flushed, or has evicted the mark. Otherwise the
      mark may have been lost before the snapshot was taken: drop.
    - The server counts as empty if it holds at most the note `cachekeeper:was-empty` and a worker's probe: no view has
      a key there. The other threads of a worker start after the first answer to this one, since their keys look like
      those of a snapshot:
          a worker on an empty server: blocks written · its first look finds keys, no mark and no note: drop
    - The note says that the server was empty. It is for the other views and workers, whose first look may find keys. It
      names the life, as a mark does, so a note from a snapshot does not match.
    - The mark is set after the drop. If a worker is killed before that, the next worker drops the view.
    - One of several workers drops a view, unless it takes longer than a lease. A second drop is harmless.

    A worker may learn of one life and set its mark in the next. This is harmless: such a mark matches no running
    server. Readers are not affected: a hit stays a plain `GET`. A Cluster is not watched.

    Args:
        keeper: gives access to the servers.
        server: the server to watch.
        views: the views that live on it.
    """

    # Older data is read for at most this long plus the drop itself, so the pauses do not grow during an outage.
    look_seconds = 0.5
    backoff_seconds = 0.5

    def __init__(self, keeper: Keeper, server: Server, views: Iterable[AnyView]) -> None:
        super().__init__(f"the {server} Redis", "watching for older data", "rollback_look_failed")
        self._keeper = keeper
        self._server = server
        self._views = sorted(views, key=lambda view: view.drop)
        self._nonce = new_nonce()
        self._known: dict[str, str] = {}
        self._has_asked = threading.Event()

    def wait_for_first_answer(self) -> None:
        """Wait until the server has answered the first look, or has failed within the time limit of a call to Redis.

        Call it after `start`. It does not wait for drops, which may take long.
        """
        self._has_asked.wait()

    def run_once(self) -> list[str]:
        """Look once, and drop what is due.

        Returns:
            The names of the views that were dropped.

        Raises:
            CacheUnavailable, DatabaseUnavailable: an outage; the rest is dropped at the next look.
        """
        try:
            found = self._ask()
        finally:
            self._has_asked.set()
        if found is None:
            return []
        now, was_empty, marks = found
        dropped = []
        for view, mark in zip(self._views, marks, strict=True):
            if doubt := self._doubt(view, mark, now, was_empty=was_empty):
                if not self._drop(view, now, doubt):
                    continue
                dropped.append(view.name)
            if mark != now.mark.encode():
                with cache_errors(f"writing the mark of view {view.name}", self._keeper.store(self._server).source):
                    self._keeper.store(self._server).client.set(_mark_key(view), now.mark)
            self._known[view.name] = now.mark
        return dropped

    def _ask(self) -> tuple[Incarnation, bool, list[bytes | None]] | None:
        """The life of the server's data, whether it was empty then, and the views' marks. None: it is not watched."""
        store = self._keeper.store(self._server)
        if store.is_cluster:
            log_once(
                f"unwatched:{self._server}",
                "the %s Redis is a Cluster, so it is not watched for older data: after a failover publish "
                "collection.changed for each collection",
                self._server,
            )
            return None
        with cache_errors("checking for older data", store.source):
            # One transaction, so that one server answers everything: its life, and the marks in its data.
            pipe = store.client.pipeline(transaction=True)
            for section in ("server", "replication", "persistence"):
                pipe.info(section)
            pipe.dbsize()
            pipe.exists(PROBE_KEY, _EMPTY_KEY)
            pipe.mget([_EMPTY_KEY, *(_mark_key(view) for view in self._views)])
            *sections, keys, own, (noted, *marks) = pipe.execute()
        try:
            now = Incarnation.of({name: value for section in sections for name, value in section.items()})
        except KeyError as field:
            log_once(
                f"unwatched:{self._server}",
                "the %s Redis is not watched for older data, because its INFO has no field %s: after a restart publish "
                "collection.changed for each collection",
                self._server,
                field,
            )
            return None
        if now.is_replica:
            return None  # a replica takes no writes; its data is checked when it is promoted
        return now, self._was_empty(now, keys - own, noted), marks

    def _was_empty(self, now: Incarnation, keys: int, noted: bytes | None) -> bool:
        """Whether the server was empty at some moment of this life, so that all its keys were written in this life."""
        if now.was_empty or (noted is not None and now.wrote(noted.decode(errors="replace"))):
            return True
        if keys:
            return False
        # Noted before the first mark is set, since a mark is a key. Keys written in between are of this life. If the
        # server has begun another life meanwhile, the note does not match that life.
        with cache_errors("writing the note cachekeeper:was-empty", self._keeper.store(self._server).source):
            self._keeper.store(self._server).client.set(_EMPTY_KEY, now.mark)
        return True

    def _doubt(self, view: AnyView, mark: bytes | None, now: Incarnation, *, was_empty: bool) -> str | None:
        """The reason to drop a view; None where its data is of this life."""
        if mark is not None:
            if now.wrote(mark.decode(errors="replace")):
                return None
            return f"the {self._server} Redis came back with older data"
        if was_empty or self._known.get(view.name) == now.mark:
            return None
        return f"the {self._server} Redis may have come back with older data"

    def _drop(self, view: AnyView, now: Incarnation, doubt: str) -> bool:
        """Drop a view; False where another worker is dropping it."""
        # The key names the life, since a snapshot may bring back the lease of an earlier drop.
        lease = f"cachekeeper:{view.name}-dropping-{now.run_id}"
        # Deleting *ready* waits for no lease: it is one command, and the most urgent.
        if view.drop is not Drop.READY and not self._acquire(lease):
            return False
        try:
            drop_view(self._keeper, view, doubt)
        except CachekeeperError:
            with suppress(CacheUnavailable):
                self._release(lease)
            raise
        COUNTERS.add("rollback_dropped")
        return True

    def _acquire(self, lease: str) -> bool:
        with cache_errors("taking the lease of a drop", self._keeper.store(self._server).source):
            pipe = self._keeper.store(self._server).client.pipeline(transaction=False)
            pipe.set(lease, self._nonce, px=self._keeper.settings.lease_ms, nx=True)
            pipe.get(lease)
            return bool(pipe.execute()[1] == self._nonce.encode())

    def _release(self, lease: str) -> None:
        client = self._keeper.store(self._server).client
        with cache_errors("releasing the lease of a drop", self._keeper.store(self._server).source):
            if client.get(lease) == self._nonce.encode():
                client.delete(lease)


def _mark_key(view: AnyView) -> str:
    return f"cachekeeper:{view.name}-incarnation"
