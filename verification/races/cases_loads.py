"""Loads that are overtaken: by an event, an eviction, a restart of Redis, or the creation of a missing document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from verification.races.adapters.base import USER
from verification.races.points import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from verification.races.adapters import Client
    from verification.races.points import Call, Point
    from verification.races.stage import Stage


@dataclass(frozen=True)
class _Load:
    """A reader that missed and has the database's answer, and is held before it uses it."""

    stage: Stage
    client: Client
    call: Call
    point: Point

    def finish(self) -> None:
        """Let it run to its end. Its answer is not judged, because it began before the change."""
        self.point.open()
        self.stage.outcome(self.call)


def _load(stage: Stage) -> _Load:
    client, point = stage.client(), stage.after_the_database_read()
    call = stage.start(client, client.read_user)
    call.arrive(point)
    return _Load(stage, client, call, point)


def fill_after_invalidation(stage: Stage) -> None:
    """reader: load, old · commit, event, acknowledged · reader: fill · a later read."""
    stage.user("Ada", 1)
    early = _load(stage)
    stage.user("Grace", 2)
    stage.client().user_changed("Grace", 2)
    early.finish()
    stage.judge(stage.client().read_user(), "Grace")


def fill_held_on_the_wire(stage: Stage) -> None:
    """reader: load, fill on its way · deletion, event, acknowledged · the fill arrives · a later read."""
    stage.user("Ada", 1)
    early = _load(stage)
    fill = early.client.wire.hold("before", names(early.client.key("user", USER)))
    early.point.open()
    early.call.arrive(fill)
    stage.no_user()
    stage.client().user_deleted()
    fill.open()
    early.finish()
    stage.judge(stage.client().read_user(), None)


def drop_of_all(stage: Stage) -> None:
    """Reader: load, old · a change, all cached users dropped, acknowledged · reader: fill · a later read."""
    stage.user("Ada", 1)
    early = _load(stage)
    stage.user("Grace", 2)
    stage.client().users_dropped()
    early.finish()
    stage.judge(stage.client().read_user(), "Grace")


def late_reader_joins(stage: Stage) -> None:
    """Reader: load, old · commit, event, acknowledged · a second reader of that process must not be told it."""
    stage.user("Ada")
    first = _load(stage)
    process = first.client
    stage.user("Grace")
    stage.client().user_changed("Grace", None)
    # Held after Redis has answered whether another reader loads.
    told = process.wire.hold("after", names(process.key("user", USER)))
    second = stage.start(process, process.read_user)
    second.settle(told)
    told.open()
    first.finish()
    stage.judge(second.result(), "Grace")


def same_lease_again(stage: Stage) -> None:
    """Reader: lease, load, old · event · another: lease · the first fills · reads, before and after the other fills."""
    stage.user("Ada")
    early = _load(stage)
    stage.user("Grace")
    stage.client().user_changed("Grace", None)
    _overlap(stage, early)


def restart_between_lease_and_fill(stage: Stage) -> None:
    """reader: lease, load, old · event, acknowledged · Redis restarts, empty · another: lease · the first fills."""
    stage.user("Ada", 1)
    early = _load(stage)
    stage.user("Grace", 2)
    stage.client().user_changed("Grace", 2)
    stage.restart_redis()
    _overlap(stage, early)


def restart_before_the_event(stage: Stage) -> None:
    """reader: lease, load, old · Redis restarts, empty · a deletion's event finds nothing · the first fills."""
    stage.user("Ada", 1)
    early = _load(stage)
    stage.restart_redis()
    stage.no_user()
    stage.client().user_deleted()
    _overlap(stage, early, true=None)


def value_evicted_at_each_step(stage: Stage) -> None:
    """Load, old · event · another reads and fills · event 1 again · the first fills; K is evicted in each gap."""
    _evicted(stage, stage.evict_value)


def metadata_evicted_at_each_step(stage: Stage) -> None:
    """The same; what is kept beside K (version, lease, lock) evicted in each gap."""
    _evicted(stage, stage.evict_metadata)


def absence_against_a_create(stage: Stage) -> None:
    """reader: load, nothing there · created, event, acknowledged · reader: fill 'does not exist' · a later read."""
    early = _load(stage)
    stage.user("Ada", 1)
    stage.client().user_changed("Ada", 1)
    early.finish()
    stage.judge(stage.client().read_user(), "Ada")


def known_absence_against_a_create(stage: Stage) -> None:
    """'Does not exist' is cached · created, event, acknowledged · a later read."""
    stage.client().read_user()
    stage.user("Ada", 1)
    stage.client().user_changed("Ada", 1)
    stage.judge(stage.client().read_user(), "Ada")


def _overlap(stage: Stage, early: _Load, true: str | None = "Grace") -> None:
    """Let another process miss, the early one fill, and a third read before the other goes on."""
    late_client, between = stage.client(), stage.client()
    points = [stage.after_the_miss(), stage.after_the_miss()]
    late = stage.start(late_client, late_client.read_user)
    late.settle(points[0])
    early.finish()
    now = stage.start(between, between.read_user)
    now.settle(*(point for point in points if not point.reached))
    for point in points:
        point.open()
    stage.judge(stage.outcome(late), true)
    stage.judge(stage.outcome(now), true)
    stage.judge(stage.client().read_user(), true)


def _evicted(stage: Stage, evict: Callable[[Client], None]) -> None:
    for gap in range(4):
        stage.evict_all()
        worker, other = stage.client(), stage.client()

        def step(number: int, gap: int = gap, worker: Client = worker) -> None:
            if number == gap:
                evict(worker)

        stage.user("Ada", 1)
        early = _load(stage)
        step(0)
        stage.user("Grace", 2)
        worker.user_changed("Grace", 2)
        step(1)
        late = stage.start(other, other.read_user)
        late.settle()
        step(2)
        worker.user_changed("Ada", 1)
        step(3)
        early.finish()
        stage.judge(stage.outcome(late), "Grace")
        stage.judge(stage.client().read_user(), "Grace")


PLAYS = {
    "slow fill after a change": fill_after_invalidation,
    "slow fill after a deletion, held on the wire": fill_held_on_the_wire,
    "slow fill after all users were dropped": drop_of_all,
    "late reader joins the old load": late_reader_joins,
    "the same lease again (ABA)": same_lease_again,
    "Redis restarts between lease and fill": restart_between_lease_and_fill,
    "Redis restarts, then the event finds nothing": restart_before_the_event,
    "overtaken load, value evicted at each step": value_evicted_at_each_step,
    "overtaken load, metadata evicted at each step": metadata_evicted_at_each_step,
    "'does not exist' under way, against a create": absence_against_a_create,
    "'does not exist' cached, against a create": known_absence_against_a_create,
}
