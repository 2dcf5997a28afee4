"""Warming: fill a view from MongoDB, many keys at once, each key by the same steps as a reader."""

from __future__ import annotations

import time
from collections import Counter, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.errors import DamagedDocument
from cachekeeper.metrics import logger
from cachekeeper.model.sources import ABSENT, Absent
from cachekeeper.protocol import cache_errors, new_nonce
from cachekeeper.protocol.outcomes import Acquired, Filled, Found, LeaseTaken
from cachekeeper.reading.filling import Unfit, fill_many, fits, interpret
from cachekeeper.upkeep.paging import id_of, in_order, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.model.views import View
    from cachekeeper.protocol import Value
    from cachekeeper.reading.filling import FillResult
    from cachekeeper.reading.keeper import Keeper

# Small, so that readers who need a key of a batch wait only milliseconds for its lease.
BATCH = 200


class Fate(StrEnum):
    """The outcome for one document."""

    FILLED = "filled"
    THERE = "there already"
    TAKEN = "being loaded by another reader"
    ABSENT = "without a value to cache (ended, expired, deleted meanwhile, or known to be absent)"
    OVERTAKEN = "changed while they were being loaded: the next reader loads them"
    TOO_LARGE = "larger than CACHEKEEPER_VALUE_LIMIT_BYTES: not cached"
    DAMAGED = "damaged, in MongoDB or at the key: the view's code cannot read them, and they are left unchanged"
    UNSPELT = "with an _id that cannot be in a key under the view's id type (see CACHEKEEPER_ID_TYPES)"


@dataclass(slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        total: documents in the collection, by MongoDB's estimate.
        done: documents handled, including those of the run that this one continues.
        resumed: documents handled before this run.
        fates: the number of documents for each outcome.
    """

    total: int
    done: int = 0
    resumed: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)


def warm_view(
    keeper: Keeper,
    view: View[Any],
    *,
    restart: bool = False,
    concurrency: int = 2,
    rate: float | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005  # the default does nothing
) -> Progress:
    """Fill every absent key of a view from MongoDB.

    Each key is filled by a reader's steps: under a lease that is acquired before the load. So a newer value is never
    overwritten, and a reader that holds a lease keeps it. A change or deletion in flight may prevent a fill, but never
    leads to a stale value.

    The place reached is stored in the Redis that is being filled, for as long as the values live. If that Redis loses
    its data, or if the first values have expired, the next run begins at the first document, as it should.

    Args:
        keeper: gives access to the servers.
        view: the view to fill.
        restart: begin at the first document, even if an earlier run was interrupted.
        concurrency: batches in flight at once, at most `LOAD_CONCURRENCY`.
        rate: the most documents per second; None for no limit.
        tell: called after each batch.

    Raises:
        CacheUnavailable, DatabaseUnavailable, Overloaded: an outage. The next run continues where this one stopped.
        ViewFailed: MongoDB refuses the view's query.
    """
    return _Run(keeper, view, concurrency, rate, tell).run(restart=restart)


def warm_keys(keeper: Keeper, view: View[Any], parts: Iterable[str]) -> Counter[Fate]:
    """Fill the absent keys among some keys of a view, by the same steps as a reader, but in one load.

    Args:
        keeper: gives access to the servers.
        view: the view of the keys.
        parts: the ids in the keys. Each must fit the view's id type.

    Raises:
        CacheUnavailable, DatabaseUnavailable, Overloaded: an outage. Leases are released where Redis answers.
        ViewFailed: MongoDB refuses the view's query.
    """
    run = _Run(keeper, view, 1, None, lambda _: None)
    return run.fill({part: new_nonce() for part in parts}, Counter())


class _Run:
    """One run over a view."""

    def __init__(
        self, keeper: Keeper, view: View[Any], concurrency: int, rate: float | None, tell: Callable[[Progress], None]
    ) -> None:
        self._keeper = keeper
        self._view = view
        self._binding = keeper.binding(view)
        self._store = keeper.store(view.server)
        self._concurrency = min(concurrency, keeper.settings.load_concurrency)
        self._rate = rate
        self._tell = tell
        self._state_key = f"cachekeeper:{view.name}-warmed"
        self._progress = Progress(0)
        self._next_batch = 0.0

    def run(self, *, restart: bool) -> Progress:
        loader, settings = self._view.loader, self._keeper.settings
        with database_errors(f"counting {loader.collection}", settings.load_timeout_seconds, loader.collection):
            total = self._keeper.database[loader.collection].estimated_document_count()
        if restart:
            self._forget()
        after = self._recall()
        self._progress.total = max(total, self._progress.done)
        self._tell(self._progress)
        fields = self._view.query(()).fields or ()
        size = BATCH if self._rate is None else max(1, min(BATCH, int(self._rate)))
        under_way: deque[tuple[Future[Counter[Fate]], Sequence[StoredDocument]]] = deque()
        with ThreadPoolExecutor(self._concurrency, "cachekeeper-warm") as pool:
            try:
                for documents in in_order(self._keeper, loader.collection, fields, size=size, after=after):
                    self._pace(len(documents))
                    under_way.append((pool.submit(self._warm, documents), documents))
                    while under_way and (under_way[0][0].done() or len(under_way) == self._concurrency):
                        self._finish(*under_way.popleft())
                while under_way:
                    self._finish(*under_way.popleft())
            finally:  # after ctrl-C or an error: batches that have begun finish, within their time limits
                pool.shutdown(cancel_futures=True)
        self._forget()
        return self._progress

    def _finish(self, batch: Future[Counter[Fate]], documents: Sequence[StoredDocument]) -> None:
        """Wait for the oldest batch. The place that is stored must not be after a batch that failed."""
        self._progress.fates += batch.result()
        self._progress.done += len(documents)
        self._progress.total = max(self._progress.total, self._progress.done)
        self._keep(place_of(documents[-1]))
        self._tell(self._progress)

    def _pace(self, documents: int) -> None:
        if self._rate is None:
            return
        now = time.monotonic()
        if now < self._next_batch:
            time.sleep(self._next_batch - now)
        self._next_batch = max(now, self._next_batch) + documents / self._rate

    def _warm(self, documents: Sequence[StoredDocument]) -> Counter[Fate]:
        """Fill the absent keys of one batch."""
        fates: Counter[Fate] = Counter()
        wanted: dict[str, str] = {}  # the id in the key: its nonce
        for document in documents:
            try:
                part = self._binding.ids.text(id_of(document))
            except DamagedDocument:
                fates[Fate.DAMAGED] += 1
                continue
            if part is None:
                fates[Fate.UNSPELT] += 1
            # It needs no lease. There may be many such documents: MongoDB keeps ended sessions for hours.
            elif unfit := self._unfit(interpret(self._view, document)):
                fates[unfit] += 1
            else:
                wanted[part] = new_nonce()
        return self.fill(wanted, fates)

    def fill(self, wanted: dict[str, str], fates: Counter[Fate]) -> Counter[Fate]:
        """Fill the keys that are absent. `wanted` has the id in each key, and a nonce for it."""
        ids = self._binding.ids
        found = fill_many(self._view, self._binding, wanted, lambda document: ids.text(id_of(document)))
        for filled in found.values():
            fates[self._fate(filled)] += 1
        return fates

    def _fate(self, filled: FillResult) -> Fate:
        match filled.answer:
            case Acquired.GRANTED:
                loaded = ABSENT if filled.loaded is None else filled.loaded
                return self._unfit(loaded) or _FATES.get(filled.outcome, Fate.OVERTAKEN)
            case Found():
                return Fate.THERE
            case LeaseTaken():
                return Fate.TAKEN
            case Acquired.KNOWN_ABSENT:
                return Fate.ABSENT
            case _:
                return Fate.DAMAGED

    def _unfit(self, loaded: Value | Absent | Unfit) -> Fate | None:
        """The outcome of a load that cannot be cached; None where it can."""
        if isinstance(loaded, Unfit):
            return Fate.DAMAGED
        if isinstance(loaded, Absent):
            return Fate.ABSENT
        return None if fits(loaded, self._keeper.settings.value_limit_bytes) else Fate.TOO_LARGE

    def _recall(self) -> bytes | None:
        """The place at which the last run was interrupted, as from `place_of`; None where there is no readable one."""
        with cache_errors("reading the place of the last run", self._store.source):
            raw = self._store.client.get(self._state_key)
        if raw is None:
            return None
        try:
            state = bson.decode(raw)  # type: ignore[arg-type]  # redis-py's types know async clients, too
            done, fates = int(state["done"]), Counter({Fate[name]: int(n) for name, n in state["fates"].items()})
            place = place_of(RawBSONDocument(state["last"]))
        except (BSONError, DamagedDocument, LookupError, TypeError, ValueError, AttributeError) as error:
            # Another version wrote it, or it is damaged. Beginning at the first document is always correct.
            logger.warning(
                "key %s does not hold a place to continue from (%s): warming begins at the first document",
                self._state_key,
                type(error).__name__,
            )
            return None
        self._progress.done = self._progress.resumed = done
        self._progress.fates = fates
        return place

    def _keep(self, place: bytes) -> None:
        fates = {fate.name: count for fate, count in self._progress.fates.items()}
        state = bson.encode({"last": place, "done": self._progress.done, "fates": fates})
        with cache_errors("storing the place of this run", self._store.source):
            self._store.client.set(self._state_key, state, px=self._binding.ttl_ms)

    def _forget(self) -> None:
        with cache_errors("deleting the place of the last run", self._store.source):
            self._store.client.delete(self._state_key)


_FATES: dict[object, Fate] = {Filled.STORED: Fate.FILLED, Filled.ENDED: Fate.ABSENT}
