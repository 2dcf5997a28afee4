"""Holds every read against the acknowledged versions, on one clock. No I/O.

A read that started at `t0` and ended at `t1` may have seen any state of its key from the newest that was acknowledged
before `t0` up to the newest whose change had begun before `t1`. Anything older is *stale*; anything else is *wrong*: a
value of another key, or one that nobody had written yet.
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
    """What happened to one key, as its writer and the workers saw it."""

    def __init__(self, changes: Sequence[Change], acks: Iterable[tuple[int, int]]) -> None:
        self.changes = list(changes)  # in the order of time
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
        """The newest change that was acknowledged before `at`; 0 for none."""
        place = bisect_left(self._ack_times, at)
        return self._acked[place - 1] if place else 0

    def started_by(self, number: int, at: int) -> bool:
        """Whether that change had begun by `at`."""
        return number in self._started and self._started[number] <= at

    def states(self, floor: int, until: int) -> Iterable[tuple[int, str | int | None]]:
        """The states that a read may have seen."""
        if not floor:
            yield 0, None
        # A session may be saved, in vain, after its end has begun: its numbers are not in order.
        since = self._places.get(floor, 0) if self._in_order else 0
        for change in self.changes[since : bisect_right(self._starts, until)]:
            if change.number >= floor:
                yield change.number, change.state

    def committed_after(self, number: int) -> int | None:
        """When the next change but this was committed."""
        return self._next.get(number)


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was not kept.

    Attributes:
        kind: of `row.KINDS`.
        key: whose.
        read: by which read it was seen; None for none.
        text: what is wrong with it.
    """

    kind: str
    key: Key
    read: Read | None
    text: str


@dataclass(slots=True)
class Verdict:
    """What a run comes to.

    Attributes:
        checked: reads that had an answer, of those that count.
        errors: those that had none, by the type of the error.
        violations: what was not right.
        staleness: seconds from a commit to the last read of an older version that began after it, at most.
        checked_after: reads for which an acknowledged version existed, so that they could have been stale.
    """

    checked: int = 0
    checked_after: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    staleness: float = 0.0

    def count(self, kind: str) -> int:
        """How many violations of one kind."""
        return sum(violation.kind == kind for violation in self.violations)


class Checker:
    """Judges the reads of one run.

    Args:
        changes: of all writers.
        acks: of all workers, those of earlier runs included.
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
        """Judge these reads, and count those that began before `until`; None: all."""
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
        """After everything has been applied: every change that was committed must have come by its own way.

        What goes through the outbox counts as arrived when a worker has applied the outbox's own copy, and its record
        is gone. A plain copy of it may have come as well; nobody was promised that. The change stream's events have ids
        of their own, and go through the outbox, too: there it is one of the time at which the change was committed.

        Args:
            left: ids of the events that are in the outbox still.
        """
        for key, history in self.histories.items():
            for change in history.changes:
                if change.committed is None or change.acknowledged:
                    continue
                if change.event is None:
                    first, last = change.wall
                    if not any(first <= at <= last for at in self._told[key]):
                        self._violated("lost", key, None, f"the change stream told nobody of {change.number}")
                elif change.event not in self._arrived:
                    self._violated("lost", key, None, f"the outbox's event of {change.number} was never applied")
                elif change.event in left:
                    self._violated("lost", key, None, f"the event of {change.number} is still in the outbox")

    def _check_key(self, read: Read) -> None:
        key = (read.kind, read.key)
        history = self.histories.get(key, self._none)
        floor = history.floor(read.started)
        self.verdict.checked_after += bool(floor) and self._counts
        number = self._seen(read)
        if number is None:
            self._violated("wrong_key", key, read, f"{read.found!r} is nothing that this key ever was")
        elif number == 0:
            allowed = [seen for seen, state in history.states(floor, read.ended) if state is None]
            if not allowed:
                self._violated("stale", key, read, f"does not exist, but {floor} was acknowledged before")
            else:
                self._note_staleness(history, max(allowed), read)
        elif not history.started_by(number, read.ended):
            self._violated("wrong_key", key, read, f"{number} had not begun when this read ended")
        elif number < floor:
            self._violated("stale", key, read, f"{number} was read, but {floor} was acknowledged before")
            self._note_staleness(history, number, read)
        else:
            self._note_staleness(history, number, read)

    def _seen(self, read: Read) -> int | None:
        """The number of what was read; 0 for 'does not exist', None for what is of no such key."""
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
                    self._violated("stale", key, read, f"not found, but by {floor}, acknowledged before, it is")
                continue
            name, number = found.pop(product)
            if not finds(read.key, name):
                self._violated("wrong_key", key, read, f"{name!r} is found by {read.key!r}")
            elif not history.started_by(number, read.ended):
                self._violated("wrong_key", key, read, f"{number} had not begun when this read ended")
            elif number < floor:
                self._violated("stale", key, read, f"{number} was found, but {floor} was acknowledged before")
            elif states.get(number) != name:
                self._violated("wrong_key", key, read, f"{number} was never called {name!r}")
            else:
                self._note_staleness(history, number, read)
        self.verdict.checked_after += judged and self._counts
        for product in found:
            self._violated("wrong_key", (Kind.PRODUCT, product), read, "a product of another run, or of none")

    def _products_of(self, text: str) -> list[tuple[str, History]]:
        """The products, with those acknowledgements that concern this search.

        An event is about the searches that its two names occur in. So what a search finds is as new as the newest
        acknowledged event of these: with `lamp` renamed to `sofa`, and then to `vase`, the second event being applied
        first says nothing of `lamp`.
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
    """Which change of a key an event tells of that the change stream made, or a copy; None for none of this run."""
    if ack.kind in (Kind.TOKEN, Kind.SESSION):
        return {Kind.TOKEN: 1, Kind.SESSION: ENDED}[ack.kind] if changes else None
    if ack.kind == Kind.USER and ack.name is not None:
        number = ack.name.rpartition("#")[2]
        return int(number) if changes and number.isdecimal() else None
    # By MongoDB's clock, which is this machine's: the last change that had surely been committed by then.
    before = [change.number for change in changes if change.wall[1] <= ack.wall]
    at = [change.number for change in changes if change.wall[0] <= ack.wall <= change.wall[1]]
    return min(at) if at else max(before, default=None)
