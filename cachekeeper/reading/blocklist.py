"""Tell whether an id is on a blocklist. An outage never gives the answer "not blocked"."""

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

# How long the answer to 'may this server evict?' is used before Redis is asked again. CONFIG SET may change the policy
# at any time; the workers ask every second, and then remove *ready*.
_POLICY_SECONDS = 10.0

_INT64 = range(-(2**63), 2**63)
_MOST_DIGITS = 20  # digits of a 64-bit integer, plus one: numbers like 1E+6000 are not written out
_DECIMAL128 = Context(prec=34, Emin=-6143, Emax=6144, traps=[])  # precision and range of BSON's decimals


def ends_of(view: BlocklistView, document: StoredDocument) -> datetime | None:
    """Return when the block in a document ends by itself.

    None means never: the field is null, missing, or not a date that Python can represent.
    """
    try:
        ends = document.get(view.ends)
    except BSONError:  # the driver cannot decode the field, so it is not a usable date
        return None
    return ends if isinstance(ends, datetime) else None


def key_text(document_id: object) -> str | None:
    """Return the text that stands for this `_id` in the key of its block; None if it has no such text.

    The text is the same for every service that writes the `_id`. MongoDB treats 42, 42.0 and Decimal128("42") as one
    `_id`, so they have one text here. Otherwise a block could be found in MongoDB but not in Redis, or the other way
    round. `ids_of` is the inverse.
    """
    if type(document_id) is str:  # exactly str: `Code` is a subclass in Python, but another type in MongoDB
        return document_id
    if isinstance(document_id, ObjectId | UUID):
        return str(document_id)
    if isinstance(document_id, int | float | Decimal128) and not isinstance(document_id, bool):
        return _number_text(document_id)
    return None


def _number_text(number: float | Decimal128) -> str | None:
    """Write a number as JavaScript does. A decimal that equals no double keeps its digits, without trailing zeros."""
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
    """Return the `_id`s whose `key_text` is `text`; of those that MongoDB treats as equal, at least one."""
    candidates: list[object] = [text]
    for read in (ObjectId, UUID, int, float, Decimal128):
        # For any other text, `int` raises for the digits, bson for the length, `decimal` for the exponent.
        with suppress(BSONError, ValueError, ArithmeticError):
            candidates.append(read(text))
    # Each of these parsers accepts more than it writes: ` 1`, `1_0`, `+1`, capitals.
    return [each for each in candidates if key_text(each) == text and not _too_long(each)]


def _too_long(candidate: object) -> bool:
    return isinstance(candidate, int) and candidate not in _INT64  # BSON has no such integer


def drops_keys(memory: Mapping[str, object]) -> bool:
    """Return whether a server with this `INFO memory` may evict keys.

    To be safe, an evicting policy counts even if no memory limit is set: CONFIG SET may set one at any time.
    """
    return str(memory.get("maxmemory_policy", "unknown")) != "noeviction"


class Flag:
    """The codec of a block: any bytes at the key mean "blocked"."""

    def encode(self, value: object) -> bytes:  # noqa: ARG002  # a block carries no value
        """Return the same bytes for every value."""
        return b"true"

    def decode(self, raw: bytes) -> bool:  # noqa: ARG002  # any bytes will do
        """Return True for any bytes."""
        return True


class EvictionWatch:
    """Tells whether a Redis may evict keys, so that an absent key proves nothing. Asks again every ten seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._may_evict = True

    def may_evict(self) -> bool:
        """Return True for a server with any policy except `noeviction`, and for every Cluster.

        Raises:
            CacheUnavailable: Redis did not answer.
        """
        if self._store.is_cluster:
            log_once(
                "blocklist:cluster",
                "the security Redis is a Cluster, so MongoDB is asked about every id without a block; "
                "a single Redis saves these reads",
            )
            return True
        if time.monotonic() - self._asked > _POLICY_SECONDS:
            # Only one thread asks. If all waited for the lock, each would spend the time limit of a hanging server, one
            # after the other. The other threads use the answer 'yes', which is always safe.
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
                "the security Redis may evict keys, so MongoDB is asked about every id without a block; "
                "set maxmemory-policy to noeviction",
            )
        return self._may_evict


class BlocklistReader:
    """Answers "is this id blocked?" for one view.

    Args:
        view: the blocklist.
        reader: the reader of the view's server.
        leeway: seconds for which a block lasts beyond its end.
        eviction: the eviction watch of the view's server.
    """

    def __init__(self, view: BlocklistView, reader: SyncReader, leeway: float, eviction: EvictionWatch) -> None:
        self._view = view
        self._reader = reader
        self._leeway = timedelta(seconds=leeway)
        self._eviction = eviction

    def is_blocked(self, part: str) -> bool:
        """Return whether the id `part` is blocked. An outage never returns False.

        Raises:
            DatabaseUnavailable, Overloaded: neither Redis nor MongoDB could answer.
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
        """Return True or False if Redis can tell, else None."""
        client: Redis = self._reader.store.client
        with cache_errors("asking for a block", self._reader.store.source):
            if self._reader.store.is_cluster:
                blocked, ready = client.exists(key), 0
            else:
                # One MULTI: in a plain pipeline a flush, or the end of warming, may come between the two answers. Then
                # "the block is absent" is from before it, and *ready* is from after it.
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
        # The leeway is subtracted from now, not added to the end: Python has no date after '9999-12-31', which some
        # services write for 'never'.
        return ends is None or ends > now - self._leeway
