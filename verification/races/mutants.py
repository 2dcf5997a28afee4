"""This project, wrong in one respect. Each case must be stale for one of these, or for another contender."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

from cachekeeper.protocol import scripts


@dataclass(frozen=True)
class Mutant:
    """A known-bad variant of the protocol's scripts.

    Attributes:
        name: in a few words. If the model can express it, `verification/protocol/mutants.py` has the same one.
        patches: the script, the code to replace, and its replacement.
        cases: the cases that must be stale with it.
    """

    name: str
    patches: Sequence[tuple[str, str, str]]
    cases: Sequence[str]


_LEASE = "if m[1] ~= ARGV[1] then return {'lost'} end"
_STALE = "if kind == 'versioned' and m[2] and tonumber(ARGV[4]) < tonumber(m[2]) then return {'stale', m[2]} end"
_OVERWRITE = "left > 0 and m[1] and redis.call('EXISTS', KEYS[1]) == 1"

MUTANTS = (
    Mutant(
        "blind fill",
        [("fill", _LEASE, ""), ("fill", _STALE, "")],
        [
            "slow fill after a change",
            "Redis restarts between lease and fill",
            "overtaken load, value evicted at each step",
            "overtaken load, metadata evicted at each step",
        ],
    ),
    Mutant(
        "no lease",
        [("fill", _LEASE, "")],
        [
            "slow fill after a deletion, held on the wire",
            "the same lease again (ABA)",
            "Redis restarts, then the event finds nothing",
            "'does not exist' under way, against a create",
            "search fill against a product change",
        ],
    ),
    Mutant(
        "a fill lands where no lease is",
        [("fill", "if m[1] ~= ARGV[1] then", "if m[1] and m[1] ~= ARGV[1] then")],
        [
            "slow fill after a deletion, held on the wire",
            "overtaken load, metadata evicted at each step",
            "search fill against a product change, metadata evicted",
        ],
    ),
    Mutant(
        "a change keeps the lease",
        [("change", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'ax'")],
        ["'does not exist' under way, against a create"],
    ),
    Mutant(
        "a change keeps 'known absent'",
        [("change", "'HDEL', KEYS[2], 'l', 'lx', 'ax'", "'HDEL', KEYS[2], 'l', 'lx'")],
        ["'does not exist' cached, against a create"],
    ),
    Mutant(
        "an invalidation keeps the lease",
        [("invalidate", "redis.call('DEL', KEYS[2])", "redis.call('HDEL', KEYS[2], 'v', 'ax')")],
        [
            "slow fill after a deletion, held on the wire",
            "slow fill after all users were dropped",
            "late reader joins the old load",
            "the same lease again (ABA)",
        ],
    ),
    Mutant(
        "no marker",
        [("change", "redis.call('HSET', KEYS[2], 'v', ARGV[1])", "")],
        ["event 2 before event 1"],
    ),
    Mutant(
        "payload over any version",
        [("change", "if m[1] and tonumber(m[1]) >= tonumber(ARGV[1]) then return {'ignored'} end", "")],
        ["event 2 before event 1"],
    ),
    Mutant(
        "payload unless something newer is known",
        [("change", _OVERWRITE, "left > 0")],
        ["old duplicate after eviction", "deletion and re-creation"],
    ),
    Mutant(
        "payload over a marker",
        [("change", _OVERWRITE, "left > 0 and m[1]")],
        ["events out of order, metadata evicted at each step"],
    ),
    Mutant(
        "payload over a value of unknown age",
        [("change", _OVERWRITE, "left > 0 and redis.call('EXISTS', KEYS[1]) == 1")],
        ["events out of order, metadata evicted at each step"],
    ),
    Mutant(
        "a fill without version keeps the version",
        [("fill", "redis.call('HDEL', KEYS[2], 'v')", "")],
        ["a document loses its version"],
    ),
    Mutant(
        "a logout only deletes",
        [
            ("expire", "redis.call('HDEL', KEYS[2], 'l', 'lx')", ""),
            ("expire", "redis.call('HSET', KEYS[2], 'd', digits(at))", ""),
        ],
        ["logout overtakes a session's load", "a foreign SET after the logout"],
    ),
    Mutant(
        "a logout only deletes, and payload unless something newer is known",
        [("expire", "redis.call('HSET', KEYS[2], 'd', digits(at))", ""), ("change", _OVERWRITE, "left > 0")],
        ["logout overtakes a session's save"],
    ),
    Mutant(
        "a fill overwrites what others have written meanwhile",
        [("fill", "if ARGV[8] == '1' and", "if false and")],
        ["a foreign login while 'no session' is being looked up"],
    ),
    Mutant(
        "a session is read without its deadline",
        [("read_until", "if d and tonumber(d) <= clock()", "if false")],
        ["a foreign SET after the logout"],
    ),
    Mutant(
        "the last block stands",
        [("block", "if left >= ms then return {'kept'} end", "")],
        ["a shorter block after a longer one"],
    ),
    Mutant(
        "ready without the nonce",
        [("ready", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'lost'} end", "")],
        ["flush while blocks are being warmed"],
    ),
    Mutant(
        "a product change lets fills land",
        [("invalidate_within", "batch[#batch + 1] = '{' .. key .. '}:meta'", "")],
        ["search fill against a product change"],
    ),
    Mutant(
        "a filter is used at once",
        [("invalidate_within", "filter and now >= filter.from and", "filter and")],
        ["a cached search older than the filter of texts"],
    ),
    Mutant(
        "only the last name is looked at",
        [("invalidate_within", "for argument = 4, #ARGV, 2 do", "for argument = 4, 5, 2 do")],
        ["cached searches of the old and the new name"],
    ),
)


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """Run the mutant's scripts instead of the correct ones.

    Raises:
        LookupError: a script does not contain the code to replace. It has changed, so change the mutant too.
    """
    sources: dict[str, str] = {}
    for name, good, bad in mutant.patches:
        source = sources.get(name) or getattr(scripts, f"_{name.upper()}").source
        if good not in source:
            raise LookupError(f"mutant {mutant.name!r}: {name}.lua does not hold {good!r}")
        sources[name] = source.replace(good, bad)
    with ExitStack() as stack:
        for name, source in sources.items():
            script = copy.copy(getattr(scripts, f"_{name.upper()}"))
            script.source = source
            script.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            stack.enter_context(mock.patch.object(scripts, f"_{name.upper()}", script))
        yield
