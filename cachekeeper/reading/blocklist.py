"""Blocklists: is this id blocked? An outage never answers 'no'."""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from bson import Decimal128, ObjectId
from bson.errors import BSONError

from cachekeeper.errors import CacheUnavailable
from cachekeeper.metrics import COUNTERS, log_once
from cachekeeper.model.sources import ABSENT, Absent, Find
from cachekeeper.protocol import Value, cache_errors
from cachekeeper.reading.core import Target
from cachekeeper.values.javascript import number_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from redis import Redis

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.model.views import BlocklistView
    from cachekeeper.protocol import Store
    from cachekeeper.reading.sync import SyncReader

# How long an answer to 'may this server evict?' is trusted. CONFIG SET may change it at any time; then the workers, who
# ask every second, take *ready* away.
_POLICY_SECONDS = 10.0

_INT64 = range(-(2**63), 2**63)
_MOST_DIGITS = 20  # of a 64-bit integer, and one to spare: 1E+6000 is not written out
_DECIMAL128 = Context(prec=34, Emin=-6143, Emax=6144, traps=[])  # what BSON's decimals can be


def ends_of(view: BlocklistView, document: StoredDocument) -> datetime | None:
    """When what a document blocks ends by itself; None for never: null, no such field, or no date of Python's years."""
    try:
        ends = document.get(view.ends)
    except BSONError:  # what no driver can read is no date
        return None
    return ends if isinstance(ends, datetime) else None


def key_text(document_id: object) -> str | None:
    """What stands in the key of a block with this `_id`: its text, whoever wrote it; None where it has none.

    `ids_of` is the inverse. To MongoDB 42, 42.0 and Decimal128("42") are one `_id`, so they have one text here: else
    a block would be found by MongoDB and not in Redis, or the other way round.
    """
    if type(document_id) is str:  # text only: `Code` is a kind of it to Python, and something else to MongoDB
        return document_id
    if isinstance(document_id, ObjectId | UUID):
        return str(document_id)
    if isinstance(document_id, int | float | Decimal128) and not isinstance(document_id, bool):
        return _number_text(document_id)
    return None


def _number_text(number: float | Decimal128) -> str | None:
    """As JavaScript writes it; a decimal that no double equals in its own digits, without noughts at the end."""
    if isinstance(number, int):
        return int.__repr__(number)
    if isinstance(number, float):
        whole = number.is_integer() and int(number) in _INT64
        return str(int(number)) if whole else number_text(number) if math.isfinite(number) else None
    exact = number.to_decimal()
    if not exact.is_finite():
        return None
    nearest = float(exact)
    if math.isfinite(nearest) and Decimal(nearest) == exact:
        return _number_text(nearest)
    whole = exact.adjusted() < _MOST_DIGITS and exact == int(exact) and int(exact) in _INT64
    return str(int(exact)) if whole else str(exact.normalize(_DECIMAL128))


def ids_of(text: str) -> list[object]:
    """Every `_id` whose `key_text` this is, one of each that are equal to MongoDB."""
    candidates: list[object] = [text]
    for read in (ObjectId, UUID, int, float, Decimal128):
        # What is no such id raises one of these: `int` for its digits, bson for lengths, `decimal` for the exponent.
        with suppress(BSONError, ValueError, ArithmeticError):
            candidates.append(read(text))
    # All of them read more than they write: ` 1`, `1_0`, `+1`, capitals.
    return [each for each in candidates if key_text(each) == text and not _too_long(each)]


def _too_long(candidate: object) -> bool:
    return isinstance(candidate, int) and candidate not in _INT64  # BSON has none


def drops_keys(memory: Mapping[str, object]) -> bool:
    """Whether a server with this `INFO memory` may evict.

    A policy that waits for a memory limit counts as well, to be safe: CONFIG SET may bring the limit.
    """
    return str(memory.get("maxmemory_policy", "unknown")) != "noeviction"


class Flag:
    """The codec of a block: whatever lies there means blocked."""

    def encode(self, value: object) -> bytes:  # noqa: ARG002  # a block carries nothing
        """Always the same bytes."""
        return b"true"

    def decode(self, raw: bytes) -> bool:  # noqa: ARG002  # any bytes will do
        """Always True."""
        return True


class EvictionWatch:
    """Whether a Redis may drop keys by itself, so that absence means nothing. Asked anew every ten seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._may_evict = True

    def may_evict(self) -> bool:
        """True for a server with any policy but `noeviction`, and for every Cluster.

        Raises:
            CacheUnavailable: Redis did not answer.
        """
        if self._store.is_cluster:
            log_once("blocklist:cluster", "the security Redis is a Cluster: every absent block is asked of MongoDB")
            return True
        if time.monotonic() - self._asked > _POLICY_SECONDS:
            # Only one asks: behind a lock, all threads of a process would spend the time limit of a server that hangs
            # one after the other. The others take 'yes' for an answer, which is always right.
            if not self._lock.acquire(blocking=False):
                return True
            try:
                with cache_errors("asking for the eviction policy", self._store.source):
                    self._may_evict = drops_keys(self._store.client.info("memory"))
                self._asked = time.monotonic()
            finally:
                self._lock.release()
        if self._may_evict:
            log_once(
                "blocklist:evicts",
                "the security Redis may evict keys (maxmemory-policy is not noeviction): "
                "every absent block is asked of MongoDB",
            )
        return self._may_evict


class BlocklistReader:
    """Answers 'is it blocked?' for one view.

    Args:
        view: the blocklist.
        reader: of the view's server.
        leeway: seconds that a block outlasts what it blocks.
        eviction: the watch of the view's server.
    """

    def __init__(self, view: BlocklistView, reader: SyncReader, leeway: float, eviction: EvictionWatch) -> None:
        self._view = view
        self._reader = reader
        self._leeway = timedelta(seconds=leeway)
        self._eviction = eviction

    def is_blocked(self, part: str) -> bool:
        """Whether the id `part` is blocked.

        Raises:
            DatabaseUnavailable, Overloaded: Redis could not say, and neither could MongoDB. Never False for that.
        """
        began = time.monotonic()
        key = self._view.template.key(part)
        if self._reader.breaker.allows():
            try:
                answer = self._ask_redis(key)
            except CacheUnavailable as error:
                self._reader.breaker.failed(error)
            else:
                self._reader.breaker.succeeded()
                if answer is not None:
                    return answer
        COUNTERS.add("block_asked_of_database")
        target = Target(self._view.name, key, self._query(part), self._interpret, Flag())
        return self._reader.find_uncached(target, began) is not ABSENT

    def _ask_redis(self, key: str) -> bool | None:
        """True or False where Redis can say, else None."""
        client: Redis = self._reader.store.client
        with cache_errors("asking for a block", self._reader.store.source):
            if self._reader.store.is_cluster:
                blocked, ready = client.exists(key), 0
            else:
                # One MULTI: in a plain pipeline a flush, or the end of warming, may fall between the two answers, and
                # an absent block from before would meet a *ready* from after.
                pipe = client.pipeline(transaction=True)
                pipe.exists(key)
                pipe.exists(self._view.ready_key)
                blocked, ready = pipe.execute()
        if blocked:
            return True
        if self._eviction.may_evict() or not ready:
            return None
        return False

    def _query(self, part: str) -> Find:
        return Find(self._view.collection, {"_id": {"$in": ids_of(part)}}, (self._view.ends,))

    def _interpret(self, documents: Sequence[StoredDocument]) -> Value | Absent:
        now = datetime.now(UTC)
        return Value(b"true", None) if any(self._live(document, now) for document in documents) else ABSENT

    def _live(self, document: StoredDocument, now: datetime) -> bool:
        ends = ends_of(self._view, document)
        # The leeway is taken from now, not added to the end: '9999-12-31' is how some write 'never'.
        return ends is None or ends > now - self._leeway
