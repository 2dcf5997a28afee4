"""Compare every read with the acknowledged versions, on one clock. No I/O.

A read that started at `t0` and ended at `t1` may have seen any state of its key from the newest that was acknowledged
before `t0` up to the newest whose change had begun before `t1`. An older state is *stale*. Any other answer is *wrong*:
a value of another key, or a value that no writer had begun to write.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from verification.chaos.workload import ENDED, Ack, Change, Kind, Read, finds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Key = tuple[str, str]


class History:
    """The changes and acknowledgements of one key, as its writer and the workers noted them."""

    def __init__(self, changes: Sequence[Change], acks: Iterable[tuple[int, int]]) -> None:
        self.changes = list(changes)  # in order of time
        self.acks = sorted(acks)
        self._started = {change.number: change.started for change in changes}
        self._starts = [change.started for change in changes]
        self._ack_times = [at for at, _ in self.acks]
        self._acked = list(accumulate((number for _, number in self.acks), max))
        self._places = {change.number: place for place, change in enumerate(changes)}
        numbers = [change.number for change in changes]
        self._in_order = numbers == sorted(numbers)
        self._next: dict[int, int | None] = {}
        soonest: int | None = None
        for change in sorted(changes, key=lambda change: -change.number):
            self._next[change.number] = soonest
            if change.committed is not None:
                soonest = change.committed if soonest is None else min(soonest, change.committed)
        self._next[0] = soonest

    def floor(self, at: int) -> int:
        """Return the number of the newest change that was acknowledged before `at`, or 0."""
        place = bisect_left(self._ack_times, at)
        return self._acked[place - 1] if place else 0

    def started_by(self, number: int, at: int) -> bool:
        """Whether the change of this number had begun by `at`."""
        return number in self._started and self._started[number] <= at

    def states(self, floor: int, until: int) -> Iterable[tuple[int, str | int | None]]:
        """Yield each state that a read may have seen, with its number."""
        if not floor:
            yield 0, None
        # A session may be saved after its end has begun. That save has no effect, and the numbers are not in order.
        since = self._places.get(floor, 0) if self._in_order else 0
        for change in self.changes[since : bisect_right(self._starts, until)]:
            if change.number >= floor:
                yield change.number, change.state

    def committed_after(self, number: int) -> int | None:
        """Return the earliest commit of a change with a higher number, or None."""
        return self._next.get(number)


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise.

    Attributes:
        kind: a key of `row.KINDS`.
        key: the key that it is about.
        read: the read that saw it; None if no read did.
        text: what is wrong.
    """

    kind: str
    key: Key
    read: Read | None
    text: str


@dataclass(slots=True)
class Verdict:
    """The result of a run.

    Attributes:
        checked: number of counted reads that got an answer.
        errors: number of counted reads that got no answer, by the type of the error.
        violations: the broken promises.
        staleness: the longest time from a commit to the begin of a later read of an older version, in seconds.
        checked_after: number of counted reads that could have been stale: an acknowledged version existed.
    """

    checked: int = 0
    checked_after: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    staleness: float = 0.0

    def count(self, kind: str) -> int:
        """Count the violations of one kind."""
        return sum(violation.kind == kind for violation in self.violations)


class Checker:
    """Judges the reads of one run.

    Args:
        changes: the changes of all writers.
        acks: the acknowledgements of all workers, including those of earlier runs.
    """

    def __init__(self, changes: Iterable[Change], acks: Iterable[Ack]) -> None:
        by_key: defaultdict[Key, list[Change]] = defaultdict(list)
        for change in changes:
            by_key[change.kind, change.key].append(change)
        for each in by_key.values():
            each.sort(key=lambda change: change.started)
        acks = list(acks)
        self._arrived = {ack.event for ack in acks if ack.outbox}
        self._told: defaultdict[Key, list[int]] = defaultdict(list)
        for ack in acks:
            if ack.outbox:
                self._told[ack.kind, ack.key].append(ack.wall)
        told: defaultdict[Key, list[tuple[int, int]]] = defaultdict(list)
        events = {change.event: change for each in by_key.values() for change in each if change.event is not None}
        for ack in acks:
            key = (ack.kind, ack.key)
            number = events[ack.event].number if ack.event in events else _number_of(ack, by_key.get(key, ()))
            if number is not None:
                told[key].append((ack.at, number))
        for key, each in by_key.items():
            told[key] += [
                (change.committed, change.number)
                for change in each
                if change.acknowledged and change.committed is not None
            ]
        self.histories: Mapping[Key, History] = {key: History(each, told[key]) for key, each in by_key.items()}
        self._products: dict[str, list[tuple[str, History]]] = {}
        self._none = History((), ())
        self._counts = True
        self.verdict = Verdict()

    def check(self, reads: Iterable[Read], until: int | None = None) -> None:
        """Judge these reads, and count those that began before `until`. With None, count all."""
        for read in reads:
            self._counts = until is None or read.started < until
            if read.error is not None:
                self.verdict.errors[read.error.split("(")[0]] += self._counts
                if read.error.startswith("!"):
                    self._violated("untyped", (read.kind, read.key), read, read.error)
            else:
                self.verdict.checked += self._counts
                if read.kind == Kind.SEARCH:
                    self._check_search(read)
                else:
                    self._check_key(read)

    def check_lost(self, left: Collection[str] = ()) -> None:
        """Find committed changes whose events were lost. Call this after everything has been applied.

        Every committed change must have arrived by its own way. An outbox event has arrived when a worker has applied
        the outbox's own copy and the outbox record is gone. A plain copy may have arrived too, but plain copies are
        not promised to arrive, so they do not count. Events of the change stream have ids of their own and go through
        the outbox too: an event matches a change by the time of the commit.

        Args:
            left: ids of the events that are still in the outbox.
        """
        for key, history in self.histories.items():
            for change in history.changes:
                if change.committed is None or change.acknowledged:
                    continue
                if change.event is None:
                    first, last = change.wall
                    if not any(first <= at <= last for at in self._told[key]):
                        self._violated("lost", key, None, f"the change stream never reported change {change.number}")
                elif change.event not in self._arrived:
                    self._violated("lost", key, None, f"the outbox's event of change {change.number} was never applied")
                elif change.event in left:
                    self._violated("lost", key, None, f"the event of change {change.number} is still in the outbox")

    def _check_key(self, read: Read) -> None:
        key = (read.kind, read.key)
        history = self.histories.get(key, self._none)
        floor = history.floor(read.started)
        self.verdict.checked_after += bool(floor) and self._counts
        number = self._seen(read)
        if number is None:
            self._violated("wrong_key", key, read, f"read {read.found!r}, which this key never held")
        elif number == 0:
            allowed = [seen for seen, state in history.states(floor, read.ended) if state is None]
            if not allowed:
                self._violated("stale", key, read, f"read as missing, but change {floor} was acknowledged before")
            else:
                self._note_staleness(history, max(allowed), read)
        elif not history.started_by(number, read.ended):
            self._violated("wrong_key", key, read, f"change {number} had not begun when this read ended")
        elif number < floor:
            self._violated("stale", key, read, f"read change {number}, but change {floor} was acknowledged before")
            self._note_staleness(history, number, read)
        else:
            self._note_staleness(history, number, read)

    def _seen(self, read: Read) -> int | None:
        """Return the number of the change that was read; 0 if it does not exist, None for a value of another key."""
        found = read.found
        if found is None or found is False:
            return 0
        if read.kind == Kind.TOKEN:
            return 1
        if read.kind == Kind.SESSION:
            assert isinstance(found, tuple)
            return found[1] if found[0] == read.key else None
        owner, _, number = str(found).partition(" #")
        return int(number) if owner == read.key and number.isdecimal() else None

    def _check_search(self, read: Read) -> None:
        assert isinstance(read.found, tuple)
        found = {product: (name, number) for product, name, number in read.found}
        judged = False
        for product, history in self._products_of(read.key):
            key = (Kind.PRODUCT, product)
            floor = history.floor(read.started)
            judged = judged or floor > 0
            states = dict(history.states(floor, read.ended))
            if product not in found:
                if all(state is not None and finds(read.key, str(state)) for state in states.values()):
                    self._violated("stale", key, read, f"not found, but change {floor} was acknowledged and matches")
                continue
            name, number = found.pop(product)
            if not finds(read.key, name):
                self._violated("wrong_key", key, read, f"{name!r} does not match the search {read.key!r}")
            elif not history.started_by(number, read.ended):
                self._violated("wrong_key", key, read, f"change {number} had not begun when this read ended")
            elif number < floor:
                self._violated("stale", key, read, f"found change {number}, but change {floor} was acknowledged before")
            elif states.get(number) != name:
                self._violated("wrong_key", key, read, f"change {number} never had the name {name!r}")
            else:
                self._note_staleness(history, number, read)
        self.verdict.checked_after += judged and self._counts
        for product in found:
            self._violated("wrong_key", (Kind.PRODUCT, product), read, "found a product that this run did not create")

    def _products_of(self, text: str) -> list[tuple[str, History]]:
        """Return the products, each with only the acknowledgements that concern this search.

        An event concerns the searches that match its old or its new name. The result of a search must be as new as the
        newest acknowledged event that concerns it. Example: `lamp` is renamed to `sofa`, then to `vase`, and the event
        of the second change is applied first. That event does not concern a search for `lamp`.
        """
        found = self._products.get(text)
        if found is None:
            found = self._products[text] = []
            for (kind, product), history in self.histories.items():
                if kind == Kind.PRODUCT:
                    names = {change.number: str(change.state or "") for change in history.changes}
                    concerned = {
                        number
                        for number, name in names.items()
                        if finds(text, name) or finds(text, names.get(number - 1, ""))
                    }
                    acks = [ack for ack in history.acks if ack[1] in concerned]
                    found.append((product, History(history.changes, acks)))
        return found

    def _note_staleness(self, history: History, number: int, read: Read) -> None:
        newer = history.committed_after(number)
        if newer is not None and read.started > newer:
            self.verdict.staleness = max(self.verdict.staleness, (read.started - newer) / 1e9)

    def _violated(self, kind: str, key: Key, read: Read | None, text: str) -> None:
        self.verdict.violations.append(Violation(kind, key, read, text))


def _number_of(ack: Ack, changes: Sequence[Change]) -> int | None:
    """Return the number of the change that an event of the change stream, or a copy, reports; None: of another run."""
    if ack.kind in (Kind.TOKEN, Kind.SESSION):
        return {Kind.TOKEN: 1, Kind.SESSION: ENDED}[ack.kind] if changes else None
    if ack.kind == Kind.USER and ack.name is not None:
        number = ack.name.rpartition("#")[2]
        return int(number) if changes and number.isdecimal() else None
    # By MongoDB's clock, which is this machine's: the last change that was certainly committed by then.
    before = [change.number for change in changes if change.wall[1] <= ack.wall]
    at = [change.number for change in changes if change.wall[0] <= ack.wall <= change.wall[1]]
    return min(at) if at else max(before, default=None)
