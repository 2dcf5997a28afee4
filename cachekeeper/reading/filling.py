"""Fill many absent keys of a view at once, as a reader of each would: take all leases, load once, fill all."""

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
"""The error that says why a document cannot be cached."""


@dataclass(frozen=True, slots=True)
class FillResult:
    """The result for one key.

    Attributes:
        answer: answer to the request for the lease. The other attributes are set only if the lease was granted.
        loaded: what MongoDB has, or the error that says why the view cannot cache it.
        outcome: outcome of the fill, or of releasing the lease.
    """

    answer: object
    loaded: Value | Absent | Unfit | None = None
    outcome: object = None


def fill_many(
    view: View[Any], binding: Binding, wanted: Mapping[str, str], text_of: Callable[[StoredDocument], str | None]
) -> dict[str, FillResult]:
    """Fill those of the given keys that are absent, with one load.

    All leases come first, then the load, then all fills. If a change commits after the load, its event destroys the
    lease, whether the event or the fill reaches Redis first:

        here: lease n · load (old)      event: commit (new), delete K and lease n      here: fill(n) -> lost

    With the load before the lease, the old value would be stored: load (old) · event · lease n · fill(n) -> stored.

    Args:
        view: the view.
        binding: its numbers and its reader.
        wanted: the id part of each key to fill, and a nonce for it.
        text_of: returns the id part of a document's key.

    Raises:
        CacheUnavailable, DatabaseUnavailable, Overloaded: an outage; no lease is left behind if Redis answers.
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
            # Matched by the id's text: MongoDB finds 42.0 when asked for 42.
            loaded = {str(text_of(document)): interpret(view, document) for document in documents}
        steps: list[Step[Any]] = []
        for part in granted:
            value = loaded.get(part, ABSENT)
            if fits(value, limits.value_bytes):
                steps.append(leases.bring(keys[part], wanted[part], value, limits, ttl_ms=binding.ttl_ms, spare=spare))
            else:
                steps += leases.give_back(keys[part], wanted[part])
        outcomes = dict(zip(granted, store.run_all(steps), strict=True))
    except BaseException:  # also a signal
        # Otherwise readers would wait until the leases expire.
        with suppress(CacheUnavailable):
            store.run_all([step for part, nonce in wanted.items() for step in leases.give_back(keys[part], nonce)])
        raise
    return {
        part: FillResult(answer, loaded.get(part, ABSENT), outcomes[part]) if part in outcomes else FillResult(answer)
        for part, answer in asked.items()
    }


def interpret(view: View[Any], document: StoredDocument) -> Value | Absent | Unfit:
    """Return what to cache for a document, or the error that says why it cannot be cached."""
    try:
        return view.interpret(document)
    except DamagedDocument as error:
        return error
    except ViewFailed as error:
        log_once(f"warm:{view.name}", "a document was not warmed: %s", error)
        return error


def fits(loaded: Value | Absent | Unfit, value_bytes: int) -> TypeGuard[Value | Absent]:
    """Return whether the load can be written to its key."""
    return isinstance(loaded, Absent) or (isinstance(loaded, Value) and len(loaded.raw) <= value_bytes)
