"""One run: writers, readers and faults for some seconds, then the drain, the sweep, and the verdict.

The drain waits until all events are applied. The sweep compares every key of Redis with MongoDB.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings
from cachekeeper.upkeep.audit import audit
from lookups import BLOCKED, SEARCH, SESSION, USER_NAME
from verification.chaos import workload as load
from verification.chaos.calm import calm
from verification.chaos.checker import Checker, Verdict, Violation
from verification.chaos.faults import Injected, Injector
from verification.chaos.marks import await_start, drain
from verification.chaos.row import KINDS, Row
from verification.chaos.schedule import Station, schedule
from verification.chaos.spy import read_acks
from verification.chaos.sweep import await_ready, sweep
from verification.chaos.workload import Change, Kind, Read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from verification.chaos.stack import Stack
    from verification.chaos.workload import Ack

_TAGS = itertools.count(1)
_RATE_OF_READS = 1600.0  # per second, for each reader
_RATE_OF_CHANGES = 40.0  # per second, for each writer


class Asked(Protocol):
    """A reader that can be asked for its last reads."""

    def ask(self, verb: str, argument: object = None) -> Any:
        """Send a command, and wait for the answer."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run's figures, and all data that an explanation needs."""

    row: Row
    violations: list[Violation]
    checker: Checker
    reads: list[Read]
    injected: list[Injected]
    began: int


def run(stack: Stack, seed: int, duration: float, station: Station) -> Outcome:
    """Carry out a run, and judge it."""
    entered, ended = time.monotonic(), len(stack.ended)
    tag = f"{seed}x{next(_TAGS)}x"  # unique: late acknowledgements and copies of the run before may still come
    if stack.move(station):
        await_start(stack)
    _clean(stack)
    stack.new_acks()
    injector = Injector(stack, schedule(seed, duration, station), seed)
    began = time.monotonic_ns()
    for writer in stack.writers:
        writer.ask("begin", (tag, seed, _RATE_OF_CHANGES))
    for reader in stack.readers:
        reader.ask("begin", (tag, seed, _RATE_OF_READS))
    injector.start()
    try:
        time.sleep(duration)
        injector.join()
        healed = time.monotonic()
        ended_at = time.monotonic_ns()
        changes, troubles = _end_writers(stack)
        problem = drain(stack)
        unready = await_ready(stack)
        recovered = time.monotonic()
        reads, uncached = _end_readers(stack)
    except Exception:
        injector.abandon()  # else it would restart processes that the stack ends
        raise
    # Before anything is looked up again: a lookup may repair a wrong key.
    raw = sweep(stack, tag, changes, Settings.model_fields["block_leeway_seconds"].default)
    stuck = _stuck(stack, tag)
    verdict, checker = _judge(stack, changes, reads, ended_at)
    violations = verdict.violations
    violations += raw
    violations += [Violation("undrained", ("", ""), None, problem)] if problem else []
    violations += [Violation("unready", ("", BLOCKED.ready_key), None, unready)] if unready else []
    violations += [Violation("untyped", ("", ""), None, f"a writer failed with {each}") for each in troubles]
    violations += [Violation("stuck", ("", key), None, "differs from what MongoDB has") for key in stuck]
    calm_reads, calm_outages = calm(reads, injector.injected)
    letters = stack.database["dead_letters"].count_documents({})
    counts: dict[str, Any] = {kind: verdict.count(kind) for kind in KINDS if kind != "dead_letters"}
    row = Row(
        seed=seed,
        series=station.series.value,
        broker=station.broker,
        duration=duration,
        operations=verdict.checked + sum(change.committed is not None for change in changes),
        changes=sum(change.committed is not None for change in changes),
        reads=verdict.checked,
        reads_after_ack=verdict.checked_after,
        faults=_counted(injector.injected),
        errors=dict(sorted(verdict.errors.items())),
        **counts,
        dead_letters=letters,
        uncached=uncached,
        given_up=sum(change.given_up for change in changes),
        calm_reads=calm_reads,
        calm_outages=calm_outages,
        ended=stack.ended[ended:],
        staleness=round(verdict.staleness, 3),
        recovery=round(recovered - _last_fault(injector.injected, healed), 3),
        seconds=round(time.monotonic() - entered, 3),
    )
    return Outcome(row, violations, checker, reads, injector.injected, began)


def _clean(stack: Stack) -> None:
    """Remove every trace of the run before. Its documents would make searches slow."""
    stack.forget_messages()
    for collection in ("users", "products", "sessions", "blocked_tokens", "dead_letters", "audit"):
        stack.database[collection].delete_many({})
    for server in (stack.cache, stack.security):
        with server.client() as client:
            client.flushall()


def _end_writers(stack: Stack) -> tuple[list[Change], list[str]]:
    changes: list[Change] = []
    troubles: list[str] = []
    for writer in stack.writers:
        writer.tell("end")
    for writer in stack.writers:
        noted, problems = writer.answer()
        changes += [Change(*change) for change in noted]
        troubles += problems
    return changes, troubles


def _end_readers(stack: Stack) -> tuple[list[Read], int]:
    """Return their reads, and how many loads asked MongoDB past the cache."""
    uncached = 0
    reads: list[Read] = []
    for reader in stack.readers:
        reader.tell("end")
    for reader in stack.readers:
        found, past = reader.answer()
        reads += [Read(*read) for read in found]
        uncached += past
    return reads, uncached


def _judge(stack: Stack, changes: list[Change], reads: list[Read], ended_at: int) -> tuple[Verdict, Checker]:
    """Judge the reads of the run, then one more read of every key by each reader.

    All reads are judged. Reads that began after the writers were asked to end are not counted: a long drain adds many
    of them, and little can go wrong then.
    """
    acks: Iterable[Ack] = read_acks(stack.new_acks())
    checker = Checker(changes, acks)
    checker.check_lost({str(record["_id"]) for record in stack.database["outbox"].find({}, {"_id": 1})})
    keys = dict.fromkeys((change.kind, change.key) for change in changes if change.kind != Kind.PRODUCT)
    wanted = [*keys, *((Kind.SEARCH, text) for text in load.TEXTS)]
    last, unanswered = last_reads(stack.readers, wanted)
    checker.check([*reads, *last], ended_at)
    checker.verdict.violations += [
        Violation("unanswered", (read.kind, read.key), read, f"no answer after all faults and changes: {read.error}")
        for read in unanswered
    ]
    return checker.verdict, checker


def last_reads(readers: Iterable[Asked], wanted: Sequence[tuple[str, str]]) -> tuple[list[Read], list[Read]]:
    """Return the last reads of each reader, and those of them that got no answer.

    The readers' time limits are short, and a shared machine may stop for a moment: a failed read is repeated once.
    """
    last: list[Read] = []
    unanswered: list[Read] = []
    for reader in readers:
        said = [Read(*read) for read in reader.ask("sweep", wanted)]
        failed = [(read.kind, read.key) for read in said if read.error is not None]
        again = [Read(*read) for read in reader.ask("sweep", failed)] if failed else []
        last += [*said, *again]
        unanswered += [read for read in again if read.error is not None]
    return last, unanswered


def _stuck(stack: Stack, tag: str) -> list[str]:
    """Return the keys of this run whose value differs from what MongoDB has."""
    settings = Settings(
        redis_url=stack.cache.url,
        security_redis_url=stack.security.url,
        mongodb_url=stack.database_server.url,
        redis_timeout_seconds=4,
        load_timeout_seconds=10,
        lookup_timeout_seconds=30,
        lease_seconds=25,
    )
    keeper = Keeper(settings)
    try:
        found = [audit(keeper, view, grace=0.5, looks=6) for view in (USER_NAME, SESSION, SEARCH, BLOCKED)]
    finally:
        keeper.close()
    wrong = [key for each in found for key in (*each.wrong, *each.unsettled)]
    # A copy of an event of the run before may have been in flight when that run's documents were removed.
    return [key for key in wrong if key.startswith(SEARCH.template.prefix) or f":{tag}" in key]


def _last_fault(injected: Iterable[Injected], otherwise: float) -> float:
    """Return when the last fault ended, in seconds of the monotonic clock."""
    return max((each.ended / 1e9 for each in injected), default=otherwise)


def _counted(injected: Iterable[Injected]) -> dict[str, int]:
    counts = Counter(f"{each.fault.target} {each.fault.kind}" for each in injected if each.problem is None)
    return dict(sorted(counts.items()))
