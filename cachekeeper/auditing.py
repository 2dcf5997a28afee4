"""The check of what is cached against the database, key by key."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from cachekeeper import fold
from cachekeeper.blocklist import ends_of, key_text
from cachekeeper.errors import InvalidId
from cachekeeper.keys import meta_key
from cachekeeper.loaders import ABSENT
from cachekeeper.store import Value, cache_errors
from cachekeeper.views import BlocklistView, Staleness, TextView, View
from cachekeeper.warming.scanning import in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cachekeeper.keeper import Keeper
    from cachekeeper.loaders import Absent

_BATCH = 200


@dataclass(slots=True)
class Audit:
    """What a check of one view found.

    Attributes:
        view: its name.
        right: keys whose value is the database's; of a blocklist, live blocks that Redis holds.
        gone: keys that ended or were removed between the scan and the look.
        foreign: keys that only Redis knows, which others may write: nobody's business.
        wrong: keys whose value is not the database's; of a blocklist, live blocks that a *ready* Redis lacks.
    """

    view: str
    right: int = 0
    gone: int = 0
    foreign: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """All keys that were looked at."""
        return self.right + self.gone + self.foreign + len(self.wrong)


def audit(keeper: Keeper, view: View[Any] | TextView[Any] | BlocklistView, *, grace: float = 1.0) -> Audit:
    """Hold every cached key of a view against the database.

    A key may differ for a moment while its change is on the way. So a difference counts only if it is still there,
    with the same two sides, after `grace` seconds.

    Args:
        keeper: on whose servers.
        view: what to check.
        grace: seconds between the first and the second look at a key that differs.

    Raises:
        CacheUnavailable, DatabaseUnavailable: it is not done.
    """
    result = Audit(view.name)
    if isinstance(view, BlocklistView):
        _audit_blocks(keeper, view, result)
        return result
    suspects: dict[str, _Sides] = {}
    for batch in _batches(dict.fromkeys(keeper.store(view.server).parts(view.template))):
        suspects.update(_differing(keeper, view, batch, result))
    if suspects:
        time.sleep(grace)
        scratch = Audit(view.name)
        again: dict[str, _Sides] = {}
        for batch in _batches(suspects):
            again.update(_differing(keeper, view, batch, scratch))
        for part, sides in suspects.items():
            if again.get(part) == sides:
                result.wrong.append(view.template.key(part))
            else:
                result.right += 1  # it was on the way
    return result


@dataclass(frozen=True, slots=True)
class _Sides:
    """What Redis holds (None: nothing, but it remembers that the thing does not exist), and what the database says."""

    cached: bytes | None
    stored: bytes | Absent


def _differing(
    keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str], result: Audit
) -> dict[str, _Sides]:
    """Count what is right, return what differs. What changes between the two reads differs, and is looked at again."""
    cached = _cached(keeper, view, parts)
    present = [part for part in parts if part in cached]
    result.gone += len(parts) - len(present)
    stored = _stored(keeper, view, present)
    differing: dict[str, _Sides] = {}
    for part in present:
        sides = _Sides(cached[part], stored[part])
        if sides.cached == sides.stored or (sides.cached is None and sides.stored is ABSENT):
            result.right += 1
        elif isinstance(view, View) and view.staleness is Staleness.SHARED and sides.stored is ABSENT:
            result.foreign += 1
        else:
            differing[part] = sides
    return differing


def _cached(keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str]) -> dict[str, bytes | None]:
    """The value at each key that lives, None for one that is known to be absent."""
    store = keeper.store(view.server)
    with cache_errors("auditing"):
        pipe = store.client.pipeline(transaction=False)
        for part in parts:
            key = view.template.key(part)
            pipe.get(key)
            pipe.hget(meta_key(key), "ax")
        answers = pipe.execute(raise_on_error=False)
        now_ms = time.time() * 1000
    found: dict[str, bytes | None] = {}
    for part, raw, absent_until in zip(parts, answers[::2], answers[1::2], strict=True):
        if isinstance(raw, Exception):
            found[part] = b"another Redis type"  # which differs from whatever the database says
        elif raw is not None:
            found[part] = cast("bytes", raw)
        elif absent_until is not None and not isinstance(absent_until, Exception) and float(absent_until) > now_ms:
            found[part] = None
    return found


def _stored(keeper: Keeper, view: View[Any] | TextView[Any], parts: Sequence[str]) -> dict[str, bytes | Absent]:
    """What a reader would load for each."""
    if isinstance(view, TextView):
        reads = keeper.reads
        return {part: view.interpret(reads.find(view.query(fold.unescape_braces(part)))).raw for part in parts}
    ids = keeper.binding(view).ids
    wanted: dict[str, object] = {}
    for part in parts:
        try:
            wanted[part] = ids.parse(part)
        except InvalidId:
            continue  # no document can have it
    found = keeper.reads.find(view.query(list(wanted.values()))) if wanted else []
    documents = {document["_id"]: document for document in found}
    answer: dict[str, bytes | Absent] = {}
    for part in parts:
        value = view.interpret(documents.get(wanted[part]) if part in wanted else None)
        answer[part] = value.raw if isinstance(value, Value) else value
    return answer


def _audit_blocks(keeper: Keeper, view: BlocklistView, result: Audit) -> None:
    """Every live block must be in Redis while that says *ready*; without *ready* its absence is asked of MongoDB."""
    store = keeper.store(view.server)
    now = datetime.now(UTC)
    for documents in in_order(keeper, view.collection, (view.ends,), size=_BATCH):
        ends = {key_text(document["_id"]): ends_of(view, document) for document in documents}
        live = [part for part, end in ends.items() if part is not None and (end is None or end > now)]
        with cache_errors("auditing"):
            pipe = store.client.pipeline(transaction=False)
            for part in live:
                pipe.exists(view.template.key(part))
            pipe.exists(view.ready_key)
            *held, ready = pipe.execute()
        for part, there in zip(live, held, strict=True):
            if there:
                result.right += 1
            elif ready:
                result.wrong.append(view.template.key(part))
            else:
                result.gone += 1


def _batches(parts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(parts)
    while batch := list(islice(rest, _BATCH)):
        yield batch
