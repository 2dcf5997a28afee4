"""The parts of a state of the model, and the rules for what may happen in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from verification.protocol.cells import NOBODY, Cell


class Phase(Enum):
    IDLE = "idle"
    BEGUN = "begun"  # about to GET
    MISSED = "missed"  # about to acquire, for the first time or again
    GRANTED = "granted"  # about to load
    LOADED = "loaded"  # about to fill
    WRONG = "wrong"  # has returned a value that is too old


class Reader(NamedTuple):
    """One reader.

    Attributes:
        phase: its progress.
        nonce: of the lease that it holds or held.
        write: before its load, the last write acknowledged when it began; after it, the write whose value it has.
        too_old: whether that value is older than what was acknowledged when the read began.
    """

    phase: Phase = Phase.IDLE
    nonce: int = NOBODY
    write: int = 0
    too_old: bool = False


IDLE = Reader()


class Database(NamedTuple):
    """The database and its events.

    Attributes:
        now: the last write committed.
        applied: a bit for each write whose event has reached Redis but is not acknowledged yet (only in fine grain).
        acknowledged: a bit for each write whose event is acknowledged.
    """

    now: int = 0
    applied: int = 0
    acknowledged: int = 0


class Move(NamedTuple):
    """One move: in words, and the state after it."""

    text: str
    cell: Cell
    database: Database
    reader: Reader = IDLE


@dataclass(frozen=True)
class Rules:
    """The rules: what may happen, and how readers behave. The defaults are the design's, in coarse grain."""

    fine: bool = False  # see world.py
    evict_key: bool = True
    evict_meta: bool = True
    restart: bool = True
    lapse: bool = True  # a lease may run out while its reader is active
    refresh: bool = True  # readers may acquire although K lives
    lagging: bool = False  # a load may find any older write
    foreign: bool = False  # a late foreign SET of the last value, once the session has ended
    until: bool = False  # others write K, too: hits use `read_until`, fills do not overwrite an existing K
    only_stuck: bool = False  # report only values that stay stale, not single stale reads
    join_without_acquire: bool = False  # wrong: a reader joins any load in flight
    return_stale: bool = False  # wrong: a value whose fill was refused as stale is returned
    resend_acquire: bool = False  # wrong: an acquire is sent twice with one nonce, and one copy may arrive late
