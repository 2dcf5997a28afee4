"""Noticing a Redis that has come back with older data, and dropping what it brought back."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from cachekeeper.applying.drop_view import drop_view
from cachekeeper.errors import CachekeeperError, CacheUnavailable
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.model.views import AnyView, Drop, Server
from cachekeeper.protocol import cache_errors, new_nonce
from cachekeeper.runtime.periodic import PeriodicThread

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cachekeeper.reading.keeper import Keeper


# No view's name makes it a mark: those end in `-incarnation`.
_EMPTY_KEY = "cachekeeper:was-empty"
PROBE_KEY = "cachekeeper:probe"
"""Written by a worker during a pause, to see whether the server takes writes."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of a server's data: from a start, or from the promotion of a replica, to the next.

    Attributes:
        run_id: of the process.
        replication_id: of its history of writes.
        is_replica: whether it only repeats another server's.
        was_promoted: whether its history goes on from another one.
        was_empty: whether the server itself says that it began without any data.
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
            # Redis 6.2 has no such field; and what was read from an append-only file is not counted.
            was_empty=info.get("rdb_last_load_keys_loaded") == 0 and not info["aof_enabled"] and not promoted,
        )

    @property
    def mark(self) -> str:
        """What stands at the mark of a view whose keys were all written in this life."""
        return f"{self.run_id}:{self.replication_id}"

    def wrote(self, mark: str) -> bool:
        """Whether `mark` is of this life.

        The replication id changes within a life, too, when a first replica comes or the last one has been away for
        long; but only a history that goes on from another one has a former id beside it.
        """
        run_id, _, replication_id = mark.partition(":")
        return run_id == self.run_id and (replication_id == self.replication_id or not self.was_promoted)


class RollbackWatch(PeriodicThread):
    """Drops the views of a server that has come back with older data, in a daemon thread of a worker.

    A server that starts from a snapshot or an append-only file, or a replica that is promoted, holds values that events
    have replaced since, and blocks are missing. Each view has a mark on its server: the life of the data in which its
    keys were written. It is data like any other, so older data brings an older mark along:

        mark: life 1 · snapshot · E · restart from the snapshot: life 2, and the mark still says 1: drop, mark: life 2

    - Of a blocklist *ready* goes (and first, since an old one lets a token in); of a view that others write too, what
      MongoDB has no document of stays; deadlines stay. See `drop_view`.
    - Without a mark there is nothing to drop where the server began empty, where it was empty at some moment of this
      life, or where this worker has seen the mark in this life: it was flushed, or has evicted the mark. Else the mark
      may have been lost before the snapshot was taken: drop.
    - Empty is a server that holds at most that note and a worker's probe: no view has a key there. The other threads of
      a worker start when this one has its first answer, since their keys are not told from those of a snapshot:
          a worker on an empty server: blocks written · its first look finds keys, no mark and no note: drop
    - That it was empty is noted at `cachekeeper:was-empty`, for the other views and workers, whose first look comes
      when there are keys already. It names the life, as a mark does, so a snapshot brings back nothing that fits.
    - The mark is set when all is done. A worker that is killed before leaves it to the next.
    - Of several workers one drops a view, unless it takes longer than a lease; a second one does no harm.

    A worker that was told of one life and marks another does no harm either: the mark fits no server that runs. Readers
    are not concerned: a hit stays a plain `GET`. Not covered: a Cluster.

    Args:
        keeper: on whose servers.
        server: which.
        views: those of them that live there.
    """

    # How long the older data is read, beside the drop itself: so a pause does not grow with an outage.
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
        """Wait until the server has said what it is, or has failed to within the time limit of a call to Redis.

        Called after `start`. Dropping, which may take long, is not waited for.
        """
        self._has_asked.wait()

    def run_once(self) -> list[str]:
        """Look once, and drop what is due.

        Returns:
            The names of the views that were dropped.

        Raises:
            CacheUnavailable, DatabaseUnavailable: an outage; what is left is due at the next look.
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
                with cache_errors("marking its data", self._keeper.store(self._server).source):
                    self._keeper.store(self._server).client.set(_mark_key(view), now.mark)
            self._known[view.name] = now.mark
        return dropped

    def _ask(self) -> tuple[Incarnation, bool, list[bytes | None]] | None:
        """The life of the server's data, whether it was empty in it, and the views' marks; None: it is not watched."""
        store = self._keeper.store(self._server)
        if store.is_cluster:
            log_once(f"unwatched:{self._server}", "the %s Redis is a Cluster: not watched for older data", self._server)
            return None
        with cache_errors("asking which data it has", store.source):
            # One transaction, hence one server: what it is, and what its data says.
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
                f"unwatched:{self._server}", "the %s Redis is not watched: it does not tell its %s", self._server, field
            )
            return None
        if now.is_replica:
            return None  # it takes no writes; what it will be worth is seen when it is promoted
        return now, self._was_empty(now, keys - own, noted), marks

    def _was_empty(self, now: Incarnation, keys: int, noted: bytes | None) -> bool:
        """Whether the server was empty at some moment of this life, so that all its keys were written in this life."""
        if now.was_empty or (noted is not None and now.wrote(noted.decode(errors="replace"))):
            return True
        if keys:
            return False
        # Before the first mark, which is a key. Keys that come in between are of this life; and where the server has
        # begun another life meanwhile, the note does not fit that one.
        with cache_errors("noting that it was empty", self._keeper.store(self._server).source):
            self._keeper.store(self._server).client.set(_EMPTY_KEY, now.mark)
        return True

    def _doubt(self, view: AnyView, mark: bytes | None, now: Incarnation, *, was_empty: bool) -> str | None:
        """Why a view is to be dropped; None where its data is of this life."""
        if mark is not None:
            if now.wrote(mark.decode(errors="replace")):
                return None
            return f"the {self._server} Redis has come back with older data"
        if was_empty or self._known.get(view.name) == now.mark:
            return None
        return f"the {self._server} Redis does not tell whether it has older data"

    def _drop(self, view: AnyView, now: Incarnation, doubt: str) -> bool:
        """Drop a view; False where another worker is at it."""
        # The key names the life: a snapshot may bring back that of an earlier drop.
        lease = f"cachekeeper:{view.name}-dropping-{now.run_id}"
        # Never held up: it is one command, and the one that matters most.
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
        with cache_errors("beginning to drop a view", self._keeper.store(self._server).source):
            pipe = self._keeper.store(self._server).client.pipeline(transaction=False)
            pipe.set(lease, self._nonce, px=self._keeper.settings.lease_ms, nx=True)
            pipe.get(lease)
            return bool(pipe.execute()[1] == self._nonce.encode())

    def _release(self, lease: str) -> None:
        client = self._keeper.store(self._server).client
        with cache_errors("leaving a view to another worker", self._keeper.store(self._server).source):
            if client.get(lease) == self._nonce.encode():
                client.delete(lease)


def _mark_key(view: AnyView) -> str:
    return f"cachekeeper:{view.name}-incarnation"
