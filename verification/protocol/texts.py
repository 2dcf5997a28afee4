"""A separate model for the filter of search texts, F: does a change leave a cached search that F does not know?

One text, X, occurs in the name of the product that changes. Another text, Y, serves only to make F again, or to turn
the slices of a block that both share. Times are in ticks. A lease lives for one tick, a value for one or two, by the
settings of the process that asks. So a registered text lives for two or three ticks, plus one tick that the product
adds: its `life`. The change comes once, at any time, and its invalidation follows. F may be evicted, found too small,
or made for a longer life.

An F that is made after an eviction knows only the life of its maker. So with processes of different lives *and* an
eviction the promise does not hold. `docs/protocol.md` says so, and the search shows it.

Not modelled: false positives, which cost only a look; more than one block per text; clocks that are set back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

LEASE = 1
PAUSE = 1  # keys live up to and including their last tick, and F is used from its first tick on
STUCK = "stuck stale"


class Filter(NamedTuple):
    """F, with the block of X.

    Attributes:
        since: the tick from which on it is used.
        life: the longest life of all registrations.
        newest: the tick of the last registration.
        slice: the slice of the block's last write.
        mine, before: whether X is among the texts of that slice, and of the slice before.
    """

    since: int
    life: int
    newest: int
    slice: int = -2
    mine: bool = False
    before: bool = False


class Lease(NamedTuple):
    """The lease of X: when it ends, how long the value will live, and the answer that its holder has loaded, if any."""

    ends: int
    value: int
    loaded: int | None = None
    registered: bool = True


class Cached(NamedTuple):
    """The value of X: from before the change (0) or after it (1); and when it ends."""

    answer: int
    ends: int


class State(NamedTuple):
    now: int = 0
    filter: Filter | None = None
    lease: Lease | None = None
    key: Cached | None = None
    early: int | None = None
    changed: bool = False
    invalidated: bool = False


@dataclass(frozen=True)
class Rules:
    """The rules. The defaults are the correct protocol.

    Attributes:
        waits: whether a new F is used only after one life.
        renewal_waits: whether an F that replaces another waits, too.
        renews: whether a process with a longer life makes F again.
        remembers: whether the slice before counts.
        registers: when X is registered: with the lease, before it (a separate step), or after it (with the fill).
        drops_leases: whether an invalidation drops the lease, too.
        values: how long a value lives, by the settings of the existing processes.
        evicts: whether F may be evicted.
    """

    waits: bool = True
    renewal_waits: bool = True
    renews: bool = True
    remembers: bool = True
    registers: str = "with"
    drops_leases: bool = True
    values: tuple[int, ...] = (2,)
    evicts: bool = True


class Texts:
    """The search space (see `explorer.Space`).

    Args:
        rules: of the protocol.
        shared: whether Y is in X's block.
        horizon: the number of ticks; enough for an F that was made again twice to be used again.
    """

    def __init__(self, rules: Rules, *, shared: bool, horizon: int = 12) -> None:
        self._rules = rules
        self._shared = shared
        self._horizon = horizon

    def start(self) -> State:
        return State()

    def twin(self, state: State) -> State:
        return state

    def successors(self, state: State) -> Iterable[State]:
        return [new for _, new in self.moves(state)]

    def verdict(self, state: State) -> str | None:
        if state.invalidated and state.key is not None and state.key.answer == 0:
            return f"{STUCK}: X is cached as it was before the change"
        return None

    def moves(self, state: State) -> Iterable[tuple[str, State]]:
        """Return every step: its text, and the state after it."""
        if state.now < self._horizon:
            yield "a tick", _tick(state)
        if state.filter is not None and self._rules.evicts:
            yield "F is evicted", state._replace(filter=None)
        if state.key is not None:
            yield "K is evicted", state._replace(key=None)
        if state.lease is not None:
            yield "M is evicted", state._replace(lease=None)
        for value in self._rules.values:
            for small in (False, True) if state.filter is not None else (False,):
                made = "F is made again, larger, and " if small else ""
                yield f"{made}Y registered, for {value}", self._register(state, value, small=small, text="Y")
                yield from self._acquire(state, value, made, small=small)
        yield from self._go_on(state)
        if not state.changed:
            yield "the change commits", state._replace(changed=True)
        elif not state.invalidated:
            yield "it invalidates", self._invalidate(state)

    def _acquire(self, state: State, value: int, made: str, *, small: bool) -> Iterable[tuple[str, State]]:
        if state.key is not None or state.lease is not None:
            return
        lease = Lease(state.now + LEASE, value)
        when = self._rules.registers
        if when == "with":
            registered = self._register(state, value, small=small, text="X")
            yield f"{made}X registered, and leased, for {value}", registered._replace(lease=lease)
        elif when == "after":
            yield f"X leased, for {value}", state._replace(lease=lease._replace(registered=False))
        elif state.early is None:
            yield (
                f"{made}X registered, for {value}",
                self._register(state, value, small=small, text="X")._replace(early=value),
            )
        elif state.early == value:
            yield f"X leased, for {value}", state._replace(lease=lease, early=None)

    def _go_on(self, state: State) -> Iterable[tuple[str, State]]:
        """Let the lease's holder load, then fill."""
        lease = state.lease
        if lease is None:
            return
        if lease.loaded is None:
            loaded = int(state.changed)
            yield f"load: {loaded}", state._replace(lease=lease._replace(loaded=loaded))
            return
        if not lease.registered:
            state = self._register(state, lease.value, small=False, text="X")
        yield "fill", state._replace(lease=None, key=Cached(lease.loaded, state.now + lease.value))

    def _register(self, state: State, value: int, *, small: bool, text: str) -> State:
        now, old, life = state.now, state.filter, LEASE + value + PAUSE
        if old is None:
            made = Filter(now + life if self._rules.waits else now, life, now)
        elif small or (life > old.life and self._rules.renews):
            life = max(old.life, life)
            waits = max(old.since, max(old.newest, now) + life)
            made = Filter(waits if self._rules.renewal_waits else old.since, life, now)
        else:
            made = old._replace(newest=now)
        if text == "X" or self._shared:
            current = now // made.life
            age = current - made.slice
            mine = made.mine and age == 0
            before = made.before if age == 0 else made.mine and age == 1
            made = made._replace(slice=current, mine=mine or text == "X", before=before)
        return state._replace(filter=made)

    def _may_be_there(self, state: State) -> bool:
        """Return whether X may be there, by F. Without an F that is old enough, every text may be there."""
        known = state.filter
        if known is None or state.now < known.since:
            return True
        age = state.now // known.life - known.slice
        mine = known.mine and age <= int(self._rules.remembers)
        return mine or (known.before and age == 0 and self._rules.remembers)

    def _invalidate(self, state: State) -> State:
        if self._may_be_there(state):
            state = state._replace(key=None, lease=None if self._rules.drops_leases else state.lease)
        return state._replace(invalidated=True)


def _tick(state: State) -> State:
    """Advance the clock. Keys live up to and including their last tick."""
    now = state.now + 1
    lease = None if state.lease is None or now > state.lease.ends else state.lease
    key = None if state.key is None or now > state.key.ends else state.key
    return state._replace(now=now, lease=lease, key=key)
