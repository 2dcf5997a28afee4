"""A writer process: an upstream service that changes its own documents, and notes each change and its commit."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from cachekeeper.errors import Unavailable
from verification.chaos.changes import Documents, People
from verification.chaos.proxy import detour
from verification.chaos.schedule import Series
from verification.chaos.service import Service
from verification.chaos.workload import Change

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableSequence


def serve(pipe: Connection, board: MutableSequence[int], index: int) -> None:
    """Serve the commands `(verb, argument)` of the pipe until it ends. See `readers.serve`."""
    upstream = Upstream(board, index)
    while True:
        try:
            verb, argument = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(getattr(upstream, verb)(argument))


class Upstream:
    """Changes the users, products, sessions and tokens that it owns by number, in two threads."""

    def __init__(self, board: MutableSequence[int], index: int) -> None:
        self._board = board
        self._index = index
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._service: Service | None = None
        self._changes: list[Change] = []
        self._errors: list[str] = []

    def move(self, where: tuple[Series, Mapping[str, Any], Mapping[int, int]]) -> None:
        """Use these servers from now on, through these lines of the proxy."""
        series, settings, ports = where
        if self._service is not None:
            self._service.close()
        detour(ports)
        self._service = Service(series, settings)

    def begin(self, run: tuple[str, int, float]) -> None:
        """Begin to change the keys of a run, given its tag, its seed, and the changes per second."""
        tag, seed, rate = run
        assert self._service is not None
        self._stop.clear()
        self._changes, self._errors = [], []
        dice = [random.Random(f"{seed} {self._index} {each}") for each in range(2)]
        documents = Documents(self._service, tag, self._index, dice[0], self._changes)
        people = People(self._service, tag, self._index, dice[1], self._changes, self._board)
        self._threads = [
            threading.Thread(target=self._change, args=(*each, rate / 2))
            for each in ((documents.populate, documents.change), (people.populate, people.change))
        ]
        for thread in self._threads:
            thread.start()

    def again(self, what: tuple[int, bool]) -> None:
        """Publish plain copies of so many old events, shuffled: in one message, or each in its own message."""
        threading.Thread(target=self._publish_copies, args=what, daemon=True).start()

    def end(self, _: None) -> tuple[list[tuple[Any, ...]], list[str]]:
        """Finish the changes under way. Return the changes and the errors."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return [tuple(change) for change in self._changes], self._errors

    def _change(self, populate: Callable[[], None], change: Callable[[], None], rate: float) -> None:
        try:
            populate()
            due = time.monotonic()
            while not self._stop.is_set():
                change()
                due = max(due + 1 / rate, time.monotonic() - 0.1)
                self._stop.wait(max(due - time.monotonic(), 0))
        except Exception as error:  # noqa: BLE001  # reported at the end of the run, which then fails
            self._errors.append(repr(error))

    def _publish_copies(self, count: int, one_by_one: bool) -> None:  # noqa: FBT001
        assert self._service is not None
        copies = list(self._service.copies)
        random.shuffle(copies)
        batches = [[copy] for copy in copies[:count]] if one_by_one else [copies[:count]]
        for batch in filter(None, batches):
            with suppress(Unavailable):  # the broker is unavailable; copies are not promised to arrive
                self._service.publisher.publish_many(batch)
