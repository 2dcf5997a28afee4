"""Known-bad variants, swapped in by the processes of a run. Runs must catch each. They are not part of the product."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern

from cachekeeper.applying import batch as applying
from cachekeeper.applying.batch import Applied
from cachekeeper.connections.mongodb import DatabaseReads
from cachekeeper.errors import Unavailable
from cachekeeper.protocol import cache_errors, scripts
from cachekeeper.reading import core
from cachekeeper.reading.blocklist import BlocklistReader
from cachekeeper.reading.singleflight import LeasedFlights
from cachekeeper.reading.sync import SyncReader
from cachekeeper.values.keys import meta_key
from verification.chaos.schedule import Series
from verification.chaos.workload import Kind

if TYPE_CHECKING:
    from cachekeeper.model.commands import Command
    from cachekeeper.reading.keeper import Keeper


@dataclass(frozen=True, slots=True)
class Mutant:
    """One known-bad variant.

    Attributes:
        text: what is wrong with it.
        swap: swaps it into this process.
        kinds: the kinds of violation, of `row.KINDS`, that catch it. Others, as a crash or a late drain, do not count.
        runs: at most how many runs of `mutating.DURATION` seconds it may take to catch it.
        series: the series that can catch it.
        keys: the kinds of key, of `Kind`, whose violations count; empty for all.
    """

    text: str
    swap: Callable[[], None]
    kinds: tuple[str, ...]
    runs: int
    series: Series = Series.OUTBOX
    keys: str = ""


def _script(name: str, *swaps: tuple[str, str]) -> None:
    """Replace parts of the source of one of the protocol's scripts."""
    mutant = copy.copy(getattr(scripts, name))
    for good, bad in swaps:
        if good not in mutant.source:
            raise ValueError(f"script {name} does not contain {good!r}: adapt the mutant to it")
        mutant.source = mutant.source.replace(good, bad)
    mutant.sha = hashlib.sha1(mutant.source.encode(), usedforsecurity=False).hexdigest()
    setattr(scripts, name, mutant)


_LEASE = "if m[1] ~= ARGV[1] then return {'lost'} end"
_OLDER = "if kind == 'versioned' and m[2] and tonumber(ARGV[4]) < tonumber(m[2]) then return {'stale', m[2]} end"
_OVERWRITE = "if left > 0 and m[1] and redis.call('EXISTS', KEYS[1]) == 1 then"


def _blind_fill() -> None:
    _script("_FILL", (_LEASE, ""), (_OLDER, ""))


def _no_lease() -> None:
    _script("_FILL", (_LEASE, ""))


def _counter_nonce() -> None:
    """Take nonces from a counter in the metadata. It begins at 1 again when Redis or the metadata is lost."""
    looking, find, end = threading.local(), SyncReader.find, LeasedFlights.end

    def remembering(reader: SyncReader, target: Any, *arguments: Any) -> Any:
        looking.at = (reader.store.client, target.key)
        return find(reader, target, *arguments)

    def counted() -> str:
        client, key = looking.at
        with cache_errors("counting leases"):
            return f"{key} {client.hincrby(meta_key(key), 'leases', 1)}"

    def ended(self: LeasedFlights, nonce: str) -> None:
        with suppress(KeyError):  # two leases had the same number
            end(self, nonce)

    LeasedFlights.end = ended  # type: ignore[method-assign]
    SyncReader.find = remembering  # type: ignore[assignment]
    core.new_nonce = counted  # type: ignore[attr-defined]


def _no_marker() -> None:
    """A change that overwrites nothing deletes the value, and leaves no marker in the metadata."""
    _script(
        "_CHANGE",
        ("redis.call('HDEL', KEYS[2], 'l', 'lx', 'ax')\n", ""),
        ("  redis.call('DEL', KEYS[1])\n", "  redis.call('DEL', KEYS[1])\n  if left > 0 then return {outcome} end\n"),
    )


def _payload_over_anything() -> None:
    _script("_CHANGE", (_OVERWRITE, "if left > 0 then"))


def _early_acknowledgement() -> None:
    """Acknowledge an event when its work begins, not when it is done."""
    apply, pool = applying.apply, ThreadPoolExecutor(8)

    def promised(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[Applied]:
        pool.submit(apply, keeper, batch)
        return [Applied() for _ in batch]

    applying.apply = promised


def _fail_open() -> None:
    """Answer "not blocked" for a token that Redis does not hold, and for every token during an outage."""
    ask, is_blocked = BlocklistReader._ask_redis, BlocklistReader.is_blocked  # noqa: SLF001  # as a mutant must

    def asked(self: BlocklistReader, key: str) -> bool | None:
        return bool(ask(self, key))

    def answered(self: BlocklistReader, part: str) -> bool:
        try:
            return is_blocked(self, part)
        except Unavailable:
            return False

    BlocklistReader._ask_redis = asked  # type: ignore[method-assign]  # noqa: SLF001
    BlocklistReader.is_blocked = answered  # type: ignore[method-assign]


def _reads(**options: Any) -> Callable[[], None]:
    """Load with other options than the protocol needs."""

    def swap() -> None:
        make = DatabaseReads.__init__

        def made(self: DatabaseReads, *arguments: Any, **named: Any) -> None:
            make(self, *arguments, **named)
            self.database = self.database.with_options(**options)

        DatabaseReads.__init__ = made  # type: ignore[method-assign]

    return swap


def _cache_aside() -> None:
    """Do as most services do: GET, load, SETEX; on a change, DEL. There is no lease and no version.

    It is better than those services: it heeds deadlines and *ready*, and a product change finds its searches.
    """
    granted = "local m = {false, false, false, false}"
    _script("_ACQUIRE", ("local m = redis.call('HMGET', KEYS[2], 'l', 'lx', 'ax', 'd')", granted))
    _script("_FILL", (_LEASE, ""), (_OLDER, ""))
    _script(
        "_CHANGE",
        ("if m[1] and tonumber(m[1]) >= tonumber(ARGV[1]) then return {'ignored'} end", ""),
        (_OVERWRITE, "if false then"),
    )


_OLD = ("stale", "stuck")

# The numbers of runs are measured, with a margin, on two cores that had other work. One run catches `counter-nonce` in
# about one of three tries, `fail-open` and `local-reads` in about one of two, and the others nearly always.

MUTANTS = {
    "blind-fill": Mutant("a fill asks for no lease and for no version", _blind_fill, _OLD, 4),
    "no-lease": Mutant("a fill asks for a version, and for no lease", _no_lease, _OLD, 4),
    "counter-nonce": Mutant("leases are numbered by a counter, which begins again", _counter_nonce, _OLD, 12),
    "no-marker": Mutant("a change that overwrites nothing leaves no word of it", _no_marker, _OLD, 3),
    "payload-over-anything": Mutant("an event's value is written whatever is known", _payload_over_anything, _OLD, 4),
    "early-acknowledgement": Mutant(
        "an event is acknowledged before it is applied", _early_acknowledgement, ("stale", "lost"), 2
    ),
    "fail-open": Mutant(
        "a token of which Redis knows nothing is not blocked", _fail_open, ("stale",), 6, keys=Kind.TOKEN
    ),
    "lagging-secondary": Mutant(
        "loads ask a secondary, which may lag",
        _reads(read_preference=ReadPreference.SECONDARY),
        _OLD,
        4,
        Series.REPLICAS,
    ),
    "local-reads": Mutant(
        "loads see what no majority holds, and a failover rolls back",
        _reads(read_concern=ReadConcern("local")),
        ("wrong_key", *_OLD),
        8,
        Series.REPLICAS,
    ),
    "cache-aside": Mutant(
        "no mutant, but what most services do: GET, load, SETEX; DEL on a change. It is flattered: deadlines, *ready* "
        "and what a product change removes stay ours",
        _cache_aside,
        _OLD,
        4,
    ),
}


def mutate(name: str | None) -> None:
    """Swap the mutant of this name into this process. None changes nothing."""
    if name is not None:
        MUTANTS[name].swap()
