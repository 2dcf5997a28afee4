"""Filling absent keys of a view, many at once, as a reader of each would: all leases, one load, all fills."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from cachekeeper.errors import CacheUnavailable, DamagedDocument, ViewFailed
from cachekeeper.metrics import log_once
from cachekeeper.model.sources import ABSENT, Absent
from cachekeeper.protocol import Value
from cachekeeper.protocol.outcomes import Acquired
from cachekeeper.reading import leases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.model.views import View
    from cachekeeper.protocol import Step
    from cachekeeper.reading.binding import Binding

Unfit = DamagedDocument | ViewFailed
"""Why a document cannot be cached."""


@dataclass(frozen=True, slots=True)
class FillResult:
    """What became of one key.

    Attributes:
        answer: to the request for its lease; all else is only there where that was granted.
        loaded: what the database had; why the view cannot cache it; None where the lease was not granted.
        outcome: of the fill, or of giving the lease back.
    """

    answer: object
    loaded: Value | Absent | Unfit | None = None
    outcome: object = None


def fill_many(
    view: View[Any], binding: Binding, wanted: Mapping[str, str], text_of: Callable[[StoredDocument], str | None]
) -> dict[str, FillResult]:
    """Fill the absent ones among some keys of a view, in one load.

    All leases first, then the load, then all fills. A change that commits after the load has its event destroy the
    lease, whichever comes first to Redis:

        here: lease n · load (old)      event: commit (new), delete K and lease n      here: fill(n) -> lost

    With the load before the lease, the old value would land: load (old) · event · lease n · fill(n) -> stored.

    Args:
        view: which.
        binding: its numbers and its reader.
        wanted: what stands in each key, and a nonce for it.
        text_of: what stands in the key of a document.

    Raises:
        CacheUnavailable, DatabaseUnavailable, Overloaded: an outage; no lease is left behind where Redis answers.
        ViewFailed: MongoDB refuses the view's query.
    """
    reader, limits = binding.reader, binding.reader.limits
    spare = view.is_shared
    keys = {part: view.template.key(part) for part in wanted}
    store = reader.store
    try:
        answers = store.run_all([leases.take(keys[part], nonce, limits) for part, nonce in wanted.items()])
        asked = dict(zip(wanted, answers, strict=True))
        granted = [part for part, answer in asked.items() if answer is Acquired.GRANTED]
        loaded: dict[str, Value | Absent | Unfit] = {}
        if granted:
            with reader.database.slot(limits.lookup):
                documents = reader.ask(view.name, view.query([binding.ids.parse(part) for part in granted]))
            # By the id's text: MongoDB finds 42.0 where 42 was asked for.
            loaded = {str(text_of(document)): interpret(view, document) for document in documents}
        steps: list[Step[Any]] = []
        for part in granted:
            value = loaded.get(part, ABSENT)
            if fits(value, limits.value_bytes):
                steps.append(leases.bring(keys[part], wanted[part], value, limits, ttl_ms=binding.ttl_ms, spare=spare))
            else:
                steps += leases.give_back(keys[part], wanted[part])
        outcomes = dict(zip(granted, store.run_all(steps), strict=True))
    except BaseException:  # a signal, too
        # Or readers would wait for the leases to end by themselves.
        with suppress(CacheUnavailable):
            store.run_all([step for part, nonce in wanted.items() for step in leases.give_back(keys[part], nonce)])
        raise
    return {
        part: FillResult(answer, loaded.get(part, ABSENT), outcomes[part]) if part in outcomes else FillResult(answer)
        for part, answer in asked.items()
    }


def interpret(view: View[Any], document: StoredDocument) -> Value | Absent | Unfit:
    """What to cache of a document, or why nothing can be."""
    try:
        return view.interpret(document)
    except DamagedDocument as error:
        return error
    except ViewFailed as error:
        log_once(f"warm:{view.name}", "while it is warmed: %s", error)
        return error


def fits(loaded: Value | Absent | Unfit, value_bytes: int) -> TypeGuard[Value | Absent]:
    """Whether it can be brought to its key."""
    return isinstance(loaded, Absent) or (isinstance(loaded, Value) and len(loaded.raw) <= value_bytes)
