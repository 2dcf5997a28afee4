"""Events that arrive late, twice or in another order, with evictions, deletions, and lost versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.races.adapters import Client
    from verification.races.stage import Stage

ADA, GRACE, HEDY = ("Ada", 1), ("Grace", 2), ("Hedy", 3)


def event_2_before_event_1(stage: Stage) -> None:
    """Cached · two commits · the second's event · the first's · a read."""
    worker = _cached(stage)
    stage.user(*GRACE)
    stage.user(*HEDY)
    worker.user_changed(*HEDY)
    stage.client().user_changed(*GRACE)
    stage.judge(stage.client().read_user(), "Hedy")


def old_duplicate_after_eviction(stage: Stage) -> None:
    """Event 2, and a reader fills · value and metadata evicted · event 1 once more · a read."""
    worker = _cached(stage)
    stage.user(*GRACE)
    worker.user_changed(*GRACE)
    worker.read_user()
    stage.evict_all()
    worker.user_changed(*ADA)
    stage.judge(stage.client().read_user(), "Grace")


def value_evicted_among_events(stage: Stage) -> None:
    """E3 · E1 once more · E2 · E3 once more, K evicted in each gap · a read, after each possible end."""
    _evicted(stage, stage.evict_value)


def metadata_evicted_among_events(stage: Stage) -> None:
    """The same; what is kept beside K evicted in each gap."""
    _evicted(stage, stage.evict_metadata)


def deletion_and_re_creation(stage: Stage) -> None:
    """Deleted, made again · the second event, the first · a read · deleted, its event · the second again · a read."""
    worker = _cached(stage)
    stage.no_user()
    stage.user(*GRACE)
    worker.user_changed(*GRACE)
    worker.user_deleted()
    stage.judge(stage.client().read_user(), "Grace")
    stage.no_user()
    worker.user_deleted()
    worker.user_changed(*GRACE)
    stage.judge(stage.client().read_user(), None)


def version_lost(stage: Stage) -> None:
    """Version 2, then none · the last event · event 1 once more · a reader fills · event 2 · a read."""
    worker = _cached(stage)
    stage.user(*GRACE)
    stage.user("Hedy")
    worker.user_changed("Hedy", None)
    worker.user_changed(*ADA)
    worker.read_user()
    worker.user_changed(*GRACE)
    stage.judge(stage.client().read_user(), "Hedy")


def _cached(stage: Stage) -> Client:
    """Cache version 1, and return a process that applies events."""
    stage.user(*ADA)
    worker = stage.client()
    worker.read_user()
    return worker


def _evicted(stage: Stage, evict: Callable[[Client], None]) -> None:
    events = [HEDY, ADA, GRACE, HEDY]
    for last in (3, 4):
        for gap in range(last):
            stage.evict_all()
            worker = _cached(stage)
            stage.user(*GRACE)
            stage.user(*HEDY)
            for number, event in enumerate(events[:last]):
                if number == gap:
                    evict(worker)
                worker.user_changed(*event)
            stage.judge(stage.client().read_user(), "Hedy")


PLAYS = {
    "event 2 before event 1": event_2_before_event_1,
    "old duplicate after eviction": old_duplicate_after_eviction,
    "events out of order, value evicted at each step": value_evicted_among_events,
    "events out of order, metadata evicted at each step": metadata_evicted_among_events,
    "deletion and re-creation": deletion_and_re_creation,
    "a document loses its version": version_lost,
}
