"""A reader process: looks up keys with the shipped lookups, in several threads, and notes the answers."""

from __future__ import annotations

import itertools
import random
import threading
import time
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from cachekeeper.errors import Unavailable
from cachekeeper.metrics import COUNTERS
from cachekeeper.reading.keeper import Keeper
from cachekeeper.settings import Settings
from lookups import is_blocked, read_session, read_user, search_products
from verification.chaos import workload as load
from verification.chaos.mutants import mutate
from verification.chaos.proxy import detour
from verification.chaos.workload import Kind, Read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

THREADS = 6
_BURST = 8  # lookups before a thread looks at the clock again
_UNCACHED = "uncached_load"
_PATIENCE = 0.1  # seconds by which a thread may be late and still catch up


def serve(pipe: Connection, board: Sequence[int], index: int, mutant: str | None) -> None:
    """Serve the commands `(verb, argument)` of the pipe until it ends. This function is the process.

    Args:
        pipe: leads to the process that controls the run.
        board: see `workload.BOARD`.
        index: the number of this reader.
        mutant: name of the known-bad variant to swap in, or None.
    """
    mutate(mutant)
    reader = Reader(board, index)
    while True:
        try:
            verb, argument = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(getattr(reader, verb)(argument))


class Reader:
    """Several threads that look up the keys of one run, and later those of the next."""

    def __init__(self, board: Sequence[int], index: int) -> None:
        self._board = board
        self._index = index
        self._keeper: Keeper | None = None
        self._threads: list[threading.Thread] = []
        self._reads: list[list[Read]] = []
        self._stop = threading.Event()
        self._uncached = 0

    def move(self, where: tuple[Mapping[str, Any], Mapping[int, int]]) -> None:
        """Use these servers from now on, through these lines of the proxy."""
        settings, ports = where
        if self._keeper is not None:
            self._keeper.close()
        detour(ports)
        self._keeper = Keeper(Settings(**settings))

    def begin(self, run: tuple[str, int, float]) -> None:
        """Begin to look up the keys of a run, given its tag, its seed, and the lookups per second."""
        tag, seed, rate = run
        self._stop.clear()
        self._uncached = COUNTERS.snapshot().get(_UNCACHED, 0)
        self._reads = [[] for _ in range(THREADS)]
        self._threads = [
            threading.Thread(target=self._look_up, args=(tag, f"{seed} {self._index} {each}", rate / THREADS, reads))
            for each, reads in enumerate(self._reads)
        ]
        for thread in self._threads:
            thread.start()

    def end(self, _: None) -> tuple[list[tuple[Any, ...]], int]:
        """Stop. Return the reads, and how many loads asked MongoDB past the cache."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        uncached = COUNTERS.snapshot().get(_UNCACHED, 0) - self._uncached
        return [tuple(read) for read in itertools.chain.from_iterable(self._reads)], uncached

    def sweep(self, keys: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        """Look up each of these keys twice. The second lookup is a hit."""
        return [tuple(self._read(kind, key)) for _ in range(2) for kind, key in keys]

    def _look_up(self, tag: str, seed: str, rate: float, reads: list[Read]) -> None:
        dice = random.Random(seed)
        due = time.monotonic()
        while not self._stop.is_set():
            reads.extend(self._read(*self._choose(tag, dice)) for _ in range(_BURST))
            due = max(due + _BURST / rate, time.monotonic() - _PATIENCE)
            self._stop.wait(max(due - time.monotonic(), 0))

    def _choose(self, tag: str, dice: random.Random) -> tuple[str, str]:
        """Choose the next key to look up. A few keys are hot."""
        chance = dice.random()
        if chance < 0.42:
            return Kind.USER, load.user_id(tag, int(load.USERS * dice.random() ** 2))
        if chance < 0.62:
            number = dice.randrange(load.SESSIONS)
            generation = self._board[number] - dice.choice((0, 0, 0, 0, 1, 2))
            return Kind.SESSION, load.session_id(tag, number, max(generation, 0))
        if chance < 0.8:
            writer = dice.randrange(load.WRITERS)
            number = self._board[load.SESSIONS + writer] + dice.choice((1, 0, 0, -1, -2, -3, -5, -8))
            return Kind.TOKEN, load.token_id(tag, writer, max(number, 0))
        return Kind.SEARCH, dice.choice(load.TEXTS)

    def _read(self, kind: str, key: str) -> Read:
        look_up = _LOOKUPS[kind]
        started = time.monotonic_ns()
        try:
            found, error = look_up(key, self._keeper), None
        except Unavailable as raised:
            found, error = None, type(raised).__name__
        except Exception as raised:  # noqa: BLE001  # any other error: the checker counts it as a violation
            found, error = None, f"!{raised!r}"
        return Read(kind, key, started, time.monotonic_ns(), found, error)


def _session(key: str, keeper: Keeper) -> object:
    data = read_session(key, keeper=keeper)
    return None if data is None else (data.get("id"), data.get("number"))


def _search(text: str, keeper: Keeper) -> object:
    return tuple((each["_id"], each.get("name"), each.get("number")) for each in search_products(text, keeper=keeper))


_LOOKUPS: Mapping[str, Callable[[str, Any], object]] = {
    Kind.USER: lambda key, keeper: read_user(key, keeper=keeper),
    Kind.SESSION: _session,
    Kind.TOKEN: lambda key, keeper: is_blocked(key, keeper=keeper),
    Kind.SEARCH: _search,
}
