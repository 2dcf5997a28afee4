"""The check of what is cached against the database, key by key."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from cachekeeper.errors import DamagedDocument, ViewFailed
from cachekeeper.model.sources import ABSENT, Absent, Find
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
    """What a check of one view found.

    Attributes:
        view: its name.
        right: keys whose value is the database's; of a blocklist, blocks that both hold.
        valueless: keys with nothing to hold against the database: metadata alone, or ended since the scan; of a
            blocklist, live blocks that a Redis lacks which is not *ready*, so that they are asked of MongoDB.
        foreign: keys where others, who may write them, put what only Redis knows: nobody's business.
        wrong: keys whose value is not the database's; of a blocklist, live blocks that a *ready* Redis lacks.
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
        """All keys that were looked at."""
        return self.right + self.valueless + self.foreign + len(self.wrong) + len(self.unsettled)


def audit(keeper: Keeper, view: AnyView, *, grace: float = 1.0, looks: int = 10) -> Audit:
    """Hold every cached key of a view against the database.

    A key may differ for a moment while its change is on the way. So a difference counts only if it is still there,
    with the same two sides, after `grace` seconds. What differs in another way then is looked at again.

    Args:
        keeper: on whose servers.
        view: what to check.
        grace: seconds between two looks at a key that differs.
        looks: so many at most, from 2.

    Raises:
        CacheUnavailable, DatabaseUnavailable: it is not done.
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
    """What Redis holds, and what the database says.

    Attributes:
        cached: the value; None where it remembers that the thing does not exist, or lacks the block.
        version: of the value, as the metadata has it.
        stored: what a reader would load; None for what a reader would refuse.
    """

    cached: bytes | None
    version: bytes | None
    stored: Value | Absent | None


def _parts(keeper: Keeper, view: AnyView) -> Iterable[str]:
    """What there is to look at, each once."""
    parts = dict.fromkeys(keeper.store(view.server).parts(view.template))
    if isinstance(view, BlocklistView):
        for documents in in_order(keeper, view.collection, (view.ends,), size=_BATCH):
            parts |= dict.fromkeys(part for part, live in _blocks(view, documents).items() if live)
    return parts


def _look(keeper: Keeper, view: AnyView, parts: Iterable[str], result: Audit) -> dict[str, _Sides]:
    """Count what is settled, return what differs; what changes between the two reads does, and is looked at again."""
    differing: dict[str, _Sides] = {}
    rest = iter(parts)
    while batch := list(islice(rest, _BATCH)):
        if isinstance(view, BlocklistView):
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
    """Whether others wrote the value: it has no document, or the key has already had the document's own version."""
    if sides.cached is None or sides.stored is None:
        return False
    return sides.stored is ABSENT or (sides.version is not None and sides.version == _version(sides.stored))


def _version(stored: Value | Absent) -> bytes | None:
    return str(stored.version).encode() if isinstance(stored, Value) and stored.version is not None else None


def _cached(
    keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str]
) -> dict[str, tuple[bytes | None, bytes | None]]:
    """The value at each key that lives, None for one that is known to be absent; and its version, where it is known."""
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
            found[part] = b"another Redis type", None  # which differs from whatever the database says
        elif raw is not None:
            found[part] = cast("bytes", raw), version
        elif absent_until is not None and float(absent_until) > now_ms:
            found[part] = None, version
    return found


def _stored(keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str]) -> dict[str, Value | Absent | None]:
    """What a reader would load for each."""
    reads = keeper.reads
    if isinstance(view, TextView):
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
    """Every live block must be in Redis while that says *ready*; without *ready* its absence is asked of MongoDB."""
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
    """What documents block, and whether that is still live. Not in the leeway, in which Redis's clock decides."""
    now = datetime.now(UTC)
    blocks: dict[str, bool] = {}
    for document in documents:
        with suppress(DamagedDocument):  # an _id that no driver can read is no token
            if (part := key_text(id_of(document))) is not None:
                ends = ends_of(view, document)
                blocks[part] = blocks.get(part, False) or ends is None or ends > now
    return blocks
