"""Apply commands: first all writes to MongoDB, then the writes of the whole batch to Redis, in one pipeline."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cachekeeper.applying.drop_view import drop_view
from cachekeeper.applying.mongo_writes import persist, persist_block
from cachekeeper.errors import CachekeeperError, CacheUnavailable, PersistedNotCached
from cachekeeper.metrics import COUNTERS
from cachekeeper.model.commands import (
    Block,
    Command,
    Expire,
    Invalidate,
    InvalidateAll,
    InvalidateWithin,
    Persist,
    Write,
)
from cachekeeper.model.views import Server, TextView, View
from cachekeeper.protocol import Value, scripts
from cachekeeper.protocol.outcomes import Blocked, Changed, Invalidated
from cachekeeper.values import fold
from cachekeeper.values.times import to_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.model.views import BlocklistView
    from cachekeeper.reading.binding import Binding
    from cachekeeper.reading.keeper import Keeper

_OF_ONE_ID = (Persist, Write, Expire, Invalidate)  # `|` would build the union again for each command

# A longer name has so many substrings that dropping the whole view costs less.
LONGEST_NAME = 4096


@dataclass(slots=True)
class Applied:
    """The result of one event of a batch.

    Attributes:
        error: why the event was not applied; None if it was.
        outcomes: the outcome for each of its keys; several events for one key share one outcome.
    """

    error: BaseException | None = None
    outcomes: dict[str, Changed | Invalidated | Blocked | str] = field(default_factory=dict)


def apply(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[Applied]:
    """Apply the commands of several events. Errors are reported per event: it was applied, or it has an error.

    MongoDB comes first: an event whose write there failed does not reach Redis. Commands for one key are then
    coalesced. Readers see no difference, because the protocol gives the same result for every order and number of
    deliveries.

    Args:
        keeper: provides the servers.
        batch: the commands, event by event.

    Returns:
        One result per event. An event with an error can safely be applied again. `Unavailable` means that a server
        failed, and that another attempt may succeed; any other error means that no attempt will.

    Raises:
        Exception: an error of MongoDB's driver itself, which could not write some value of some event.
    """
    results = [Applied() for _ in batch]
    for commands, result in zip(batch, results, strict=True):
        try:
            check(keeper, commands)
        except CachekeeperError as error:
            result.error = error
    checked = [() if result.error else _due(keeper, commands) for commands, result in zip(batch, results, strict=True)]
    plan = _Plan(keeper)
    for commands, result, failed in zip(checked, results, persist(keeper, checked), strict=True):
        if failed is not None:
            result.error = failed
            continue
        for command in commands:
            plan.add(command, result)
    plan.run()
    return results


def check(keeper: Keeper, commands: Sequence[Command]) -> None:
    """Check, before anything is written, that the commands can be applied.

    Raises:
        InvalidId: an id does not fit the type that the settings give its view.
        DamagedDocument: the view cannot hold a value.
        ViewFailed: the view's codec raised.
    """
    for command in commands:
        if isinstance(command, _OF_ONE_ID):
            keeper.binding(command.view).ids.parse(command.id)
        if isinstance(command, Write):
            command.view.encode(command.value)


def _due(keeper: Keeper, commands: Sequence[Command]) -> list[Command]:
    """Return all commands except blocks that are over.

    One clock decides: otherwise Redis might still accept a block that is not written to MongoDB.
    """
    return [command for command in commands if not (isinstance(command, Block) and is_over(keeper, command.until))]


def is_over(keeper: Keeper, until: datetime | None) -> bool:
    """Return whether a block until `until` has already ended, its leeway included."""
    return until is not None and until <= datetime.now(UTC) - timedelta(seconds=keeper.settings.block_leeway_seconds)


def block(keeper: Keeper, view: BlocklistView, document_id: str, until: datetime | None) -> Blocked:
    """Block one id, in MongoDB and then in Redis.

    Raises:
        WriteRefused: the collection forbids the write; nothing was written.
        DatabaseUnavailable: MongoDB failed; it is unknown whether the block was written.
        PersistedNotCached: Redis failed; MongoDB has the block.
    """
    if is_over(keeper, until):
        return Blocked.OVER
    wanted = Block(view, document_id, until)
    persist_block(keeper, wanted)
    try:
        return keeper.store(view.server).run(block_step(keeper, view, document_id, wanted.until))
    except CacheUnavailable as error:
        raise PersistedNotCached("the block is in MongoDB, but not in Redis yet: block it again") from error


def block_step(keeper: Keeper, view: BlocklistView, part: str, until: datetime | None) -> scripts.Step[Blocked]:
    """Return the step that writes a block to Redis, with the leeway added."""
    # Added as milliseconds: some services write '9999-12-31' for 'never', and Python's dates end there.
    leeway_ms = round(keeper.settings.block_leeway_seconds * 1000)
    return scripts.block(view.template.key(part), None if until is None else to_ms(until) + leeway_ms)


class _Plan:
    """The Redis half of a batch, coalesced per key."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._changes: dict[str, _Change] = {}
        self._blocks: dict[str, tuple[Block, list[Applied]]] = {}
        self._within: dict[str, tuple[TextView[Any], dict[str, None], list[Applied]]] = {}
        self._drops: dict[str, tuple[InvalidateAll, list[Applied]]] = {}

    def add(self, command: Command, result: Applied) -> None:
        match command:
            case Write() | Expire() | Invalidate():
                key = command.view.template.key(command.id)
                self._changes.setdefault(key, _Change(command.view, key)).add(command, result)
            case Block():
                self._add_block(command, result)
            case InvalidateWithin(view, names) if any(len(name) > LONGEST_NAME for name in names):
                self.add(
                    InvalidateAll(view, "an event has a name too long to invalidate each of its substrings"), result
                )
            case InvalidateWithin(view, names):
                _, known, results = self._within.setdefault(view.name, (view, {}, []))
                known.update(dict.fromkeys(fold.fold(name) for name in names))
                results.append(result)
            case InvalidateAll():
                self._drops.setdefault(command.view.name, (command, []))[1].append(result)
            case Persist():
                pass  # MongoDB has it already

    def _add_block(self, command: Block, result: Applied) -> None:
        key = command.view.template.key(command.id)
        longest, results = self._blocks.get(key, (command, []))
        if longest.until is not None and (command.until is None or command.until > longest.until):
            longest = command
        self._blocks[key] = (longest, [*results, result])

    def run(self) -> None:
        """Write everything. An error becomes the error of the events it concerns."""
        for server in Server:
            self._run_keys(server)
        for view, names, results in self._within.values():
            limit = self._keeper.settings.text_limit_chars
            with self._guard(results):
                self._keeper.store(view.server).invalidate_within(
                    view.template, limit, list(names), filter_key=view.filter_key
                )
        for command, results in self._drops.values():
            COUNTERS.add("view_dropped")
            with self._guard(results):
                drop_view(self._keeper, command.view, command.reason)

    def _run_keys(self, server: Server) -> None:
        """Write all keys of one server, in one pipeline."""
        wanted: list[scripts.Step[Any]] = []
        owners: list[tuple[str, list[Applied]]] = []
        for key, change in self._changes.items():
            if change.view.server is server:
                for step in change.steps(self._keeper):
                    wanted.append(step)
                    owners.append((key, change.results))
        for key, (command, results) in self._blocks.items():
            if command.view.server is server:
                wanted.append(block_step(self._keeper, command.view, command.id, command.until))
                owners.append((key, results))
        if not wanted:
            return
        concerned = [result for _, results in owners for result in results]
        outcomes: list[Any] = []
        with self._guard(concerned):
            outcomes += self._keeper.store(server).run_all(wanted)
        for (key, results), outcome in zip(owners, outcomes, strict=False):
            for result in results:
                result.outcomes[key] = outcome

    @staticmethod
    @contextmanager
    def _guard(results: Sequence[Applied]) -> Iterator[None]:
        """Store an error that is raised inside as the error of these results."""
        try:
            yield
        except CachekeeperError as error:
            for result in results:
                result.error = error


class _Change:
    """The changes that a batch makes to one key of a view."""

    def __init__(self, view: View[Any], key: str) -> None:
        self.view = view
        self.results: list[Applied] = []
        self._key = key
        self._write: Write | None = None
        self._invalidate = False
        self._until: datetime | None = None
        self._expires = False

    def add(self, command: Write | Expire | Invalidate, result: Applied) -> None:
        self.results.append(result)
        match command:
            case Write():
                if self._write is None or command.version > self._write.version:
                    self._write = command
            case Invalidate():
                # Its order relative to the writes is unknown, so none of them may stay.
                self._invalidate = True
            case Expire(at=None):
                self._expires, self._until = True, None
            case Expire(at=at):
                if not self._expires or (self._until is not None and at is not None and at < self._until):
                    self._until = at
                self._expires = True

    def _written(self, keeper: Keeper, write: Write, binding: Binding) -> scripts.Step[Any]:
        value = Value(self.view.encode(write.value), write.version)
        if len(value.raw) > keeper.settings.value_limit_bytes:
            return scripts.invalidate(self._key)  # no reader would cache it either
        return scripts.change(self._key, value, ttl_ms=binding.ttl_ms, marker_ms=binding.marker_ms)

    def steps(self, keeper: Keeper) -> list[scripts.Step[Any]]:
        """Return the steps for this key. The deadline comes first, so that the write respects it."""
        binding = keeper.binding(self.view)
        found: list[scripts.Step[Any]] = []
        if self._expires:
            # Remembered for twice the key's life plus the longest redelivery: by then every write under way has ended.
            keep_ms = 2 * binding.ttl_ms + round(keeper.settings.redelivery_seconds * 1000)
            found.append(
                scripts.expire(self._key, at_ms=0 if self._until is None else to_ms(self._until), keep_ms=keep_ms)
            )
        if self._invalidate:
            found.append(scripts.invalidate(self._key))
        elif self._write is not None:
            found.append(self._written(keeper, self._write, binding))
        return found
