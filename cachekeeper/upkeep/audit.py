"""The audit, which compares cached values with the database, key by key."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from cachekeeper.errors import DamagedDocument, ViewFailed
from cachekeeper.model.sources import ABSENT, Absent, Find
from cachekeeper.model.view_kinds import Holds
from cachekeeper.model.views import AnyView, BlocklistView, TextView, View
from cachekeeper.protocol import Value, cache_errors
from cachekeeper.reading.blocklist import ends_of, ids_of, key_text
from cachekeeper.upkeep.paging import id_of, in_order
from cachekeeper.values import fold
from cachekeeper.values.keys import meta_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.reading.keeper import Keeper

_BATCH = 200


@dataclass(slots=True)
class Audit:
    """The result of the audit of one view.

    Attributes:
        view: the view's name.
        right: keys whose value equals the database's. In a blocklist, blocks that Redis and MongoDB both hold.
        valueless: keys without a value to compare: metadata alone, or ended since the scan. In a blocklist, live
            blocks that Redis lacks while it is not *ready*; readers ask MongoDB about them.
        foreign: keys with a value that another service wrote and only Redis has. The view allows this: not an error.
        wrong: keys whose value differs from the database's. In a blocklist, live blocks that a *ready* Redis lacks.
        unsettled: keys that differed at every look, each time in another way.
    """

    view: str
    right: int = 0
    valueless: int = 0
    foreign: int = 0
    wrong: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """The number of keys that were looked at."""
        return self.right + self.valueless + self.foreign + len(self.wrong) + len(self.unsettled)


def audit(keeper: Keeper, view: AnyView, *, grace: float = 1.0, looks: int = 10) -> Audit:
    """Compare every cached key of a view with the database.

    A key may differ for a moment while its change is in flight. So a difference counts only if both sides are still
    the same after `grace` seconds. A key that differs in another way by then is looked at again.

    Args:
        keeper: gives access to the servers.
        view: the view to audit.
        grace: seconds between two looks at a key that differs.
        looks: the most looks at a key, at least 2.

    Raises:
        CacheUnavailable, DatabaseUnavailable: an outage; the audit is not complete.
    """
    result = Audit(view.name)
    suspects = _look(keeper, view, _parts(keeper, view), result)
    for _ in range(looks - 1):
        if not suspects:
            break
        time.sleep(grace)
        again = _look(keeper, view, suspects, result)
        result.wrong += [view.template.key(part) for part, sides in again.items() if suspects[part] == sides]
        suspects = {part: sides for part, sides in again.items() if suspects[part] != sides}
    result.unsettled += [view.template.key(part) for part in suspects]
    return result


@dataclass(frozen=True, slots=True)
class _Sides:
    """The two sides of a key: Redis and the database.

    Attributes:
        cached: the value in Redis; None where Redis has an absent flag instead, or lacks the block.
        version: the value's version in the metadata.
        stored: the answer that a reader would load; None where a reader would raise an error.
    """

    cached: bytes | None
    version: bytes | None
    stored: Value | Absent | None


def _parts(keeper: Keeper, view: AnyView) -> Iterable[str]:
    """The ids or texts of the keys to look at, each once."""
    parts = dict.fromkeys(keeper.store(view.server).parts(view.template))
    if view.holds is Holds.BLOCK:
        for documents in in_order(keeper, view.collection, (view.ends,), size=_BATCH):
            parts |= dict.fromkeys(part for part, live in _blocks(view, documents).items() if live)
    return parts


def _look(keeper: Keeper, view: AnyView, parts: Iterable[str], result: Audit) -> dict[str, _Sides]:
    """Count the keys that are settled, and return those that differ.

    A key that changes between the two reads differs, and is looked at again.
    """
    differing: dict[str, _Sides] = {}
    rest = iter(parts)
    while batch := list(islice(rest, _BATCH)):
        if view.holds is Holds.BLOCK:
            differing |= _lacking(keeper, view, batch, result)
        else:
            differing |= _differing(keeper, view, batch, result)
    return differing


def _differing(
    keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str], result: Audit
) -> dict[str, _Sides]:
    cached = _cached(keeper, view, parts)
    result.valueless += len(parts) - len(cached)
    stored = _stored(keeper, view, list(cached))
    differing: dict[str, _Sides] = {}
    for part, (raw, version) in cached.items():
        sides = _Sides(raw, version, stored[part])
        match sides.stored:
            case Value() as value if raw == value.raw:
                result.right += 1
            case Absent.ABSENT if raw is None:
                result.right += 1
            case _ if view.is_shared and _is_foreign(sides):
                result.foreign += 1
            case _:
                differing[part] = sides
    return differing


def _is_foreign(sides: _Sides) -> bool:
    """Whether another service wrote the value: it has no document, or the metadata has the document's version."""
    if sides.cached is None or sides.stored is None:
        return False
    return sides.stored is ABSENT or (sides.version is not None and sides.version == _version(sides.stored))


def _version(stored: Value | Absent) -> bytes | None:
    return str(stored.version).encode() if isinstance(stored, Value) and stored.version is not None else None


def _cached(
    keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str]
) -> dict[str, tuple[bytes | None, bytes | None]]:
    """The value of each live key (None under an absent flag), and its version (None where it is not known)."""
    store = keeper.store(view.server)
    with cache_errors("auditing", store.source):
        pipe = store.client.pipeline(transaction=False)
        for part in parts:
            key = view.template.key(part)
            pipe.get(key)
            pipe.hmget(meta_key(key), "ax", "v")
        answers = pipe.execute(raise_on_error=False)
        now_ms = time.time() * 1000
    found: dict[str, tuple[bytes | None, bytes | None]] = {}
    for part, raw, meta in zip(parts, answers[::2], answers[1::2], strict=True):
        absent_until, version = (None, None) if isinstance(meta, Exception) else meta
        if isinstance(raw, Exception):
            found[part] = b"another Redis type", None  # differs from every value of the database
        elif raw is not None:
            found[part] = cast("bytes", raw), version
        elif absent_until is not None and float(absent_until) > now_ms:
            found[part] = None, version
    return found


def _stored(keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str]) -> dict[str, Value | Absent | None]:
    """The answer that a reader would load for each id or text."""
    reads = keeper.reads
    if view.holds is Holds.TEXT:
        found = {part: reads.find(view.query(fold.unescape_braces(part))) for part in parts}
        return {part: _interpreted(view.interpret, documents) for part, documents in found.items()}
    ids = keeper.binding(view).ids
    wanted = ids.parse_all(parts)
    documents: Sequence[StoredDocument] = reads.find(view.query(list(wanted.values()))) if wanted else []
    by_part = {ids.text(id_of(document)): document for document in documents}
    return {part: _interpreted(view.interpret, by_part.get(part)) for part in parts}


def _interpreted(interpret: Callable[[Any], Value | Absent], found: object) -> Value | Absent | None:
    try:
        return interpret(found)
    except (DamagedDocument, ViewFailed):
        return None


def _lacking(keeper: Keeper, view: BlocklistView, parts: Sequence[str], result: Audit) -> dict[str, _Sides]:
    """The live blocks that a *ready* Redis lacks. Without *ready* no block counts: readers ask MongoDB."""
    store = keeper.store(view.server)
    ids = [document_id for part in parts for document_id in ids_of(part)]
    blocks = _blocks(view, keeper.reads.find(Find(view.collection, {"_id": {"$in": ids}}, (view.ends,))))
    with cache_errors("auditing", store.source):
        pipe = store.client.pipeline(transaction=not store.is_cluster)
        for part in parts:
            pipe.exists(view.template.key(part))
        pipe.exists(view.ready_key)
        *held, ready = pipe.execute()
    lacking: dict[str, _Sides] = {}
    for part, there in zip(parts, held, strict=True):
        if there and part in blocks:
            result.right += 1
        elif there:
            result.foreign += 1
        elif ready and blocks.get(part):
            lacking[part] = _Sides(None, None, None)
        else:
            result.valueless += 1
    return lacking


def _blocks(view: BlocklistView, documents: Iterable[StoredDocument]) -> dict[str, bool]:
    """The ids that documents block, and whether each block is live.

    A block within its leeway does not count as live, since Redis's clock decides when it ends.
    """
    now = datetime.now(UTC)
    blocks: dict[str, bool] = {}
    for document in documents:
        with suppress(DamagedDocument):  # an _id that the driver cannot read is not a token's id
            if (part := key_text(id_of(document))) is not None:
                ends = ends_of(view, document)
                blocks[part] = blocks.get(part, False) or ends is None or ends > now
    return blocks
