"""Commands become writes: first everything that goes to MongoDB, then all of a batch in one pipeline to Redis."""

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

_OF_ONE_ID = (Persist, Write, Expire, Invalidate)  # `|` would make the union anew for each command

# Beyond it the substrings of a name are so many that dropping the whole view costs less.
LONGEST_NAME = 4096


@dataclass(slots=True)
class Applied:
    """How one event of a batch ended.

    Attributes:
        error: why it was not applied; None where it was.
        outcomes: what each of its keys came to, by key; several events of one key share one outcome.
    """

    error: BaseException | None = None
    outcomes: dict[str, Changed | Invalidated | Blocked | str] = field(default_factory=dict)


def apply(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[Applied]:
    """Apply the commands of several events, each event whole or not at all as far as its errors go.

    MongoDB comes first: an event whose write there failed is left out of Redis. Commands of one key are then
    coalesced, which changes nothing for a reader: the protocol gives the same end for every order and number of
    deliveries.

    Args:
        keeper: on whose servers.
        batch: the commands, event by event.

    Returns:
        One result an event. An error leaves the event safe to apply again; `Unavailable` means that a server failed,
        and that it may succeed another time, everything else that it never will.

    Raises:
        Exception: MongoDB's driver could not write some value of some event, and said so in its own way.
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
    """Find what could never be applied before anything is written.

    Raises:
        InvalidId: an id does not fit the type that the settings give its view.
        DamagedDocument: a value that the view cannot hold.
        ViewFailed: the view's codec raised.
    """
    for command in commands:
        if isinstance(command, _OF_ONE_ID):
            keeper.binding(command.view).ids.parse(command.id)
        if isinstance(command, Write):
            command.view.encode(command.value)


def _due(keeper: Keeper, commands: Sequence[Command]) -> list[Command]:
    """All but blocks that are over: by one clock, or Redis might still take one that MongoDB is not told of."""
    return [command for command in commands if not (isinstance(command, Block) and is_over(keeper, command.until))]


def is_over(keeper: Keeper, until: datetime | None) -> bool:
    """Whether a block until then has ended already, its leeway included."""
    return until is not None and until <= datetime.now(UTC) - timedelta(seconds=keeper.settings.block_leeway_seconds)


def block(keeper: Keeper, view: BlocklistView, document_id: str, until: datetime | None) -> Blocked:
    """Block one id, in MongoDB and then in Redis.

    Raises:
        WriteRefused: the collection forbids it; nothing was written.
        DatabaseUnavailable: MongoDB failed; nothing is known to be written.
        PersistedNotCached: Redis failed; MongoDB has it.
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
    """The step that brings a block to Redis, the leeway added."""
    # Added as milliseconds: '9999-12-31' is how some write 'never', and Python's dates end there.
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
                    InvalidateAll(view, "a name is too long for its substrings to be invalidated one by one"), result
                )
            case InvalidateWithin(view, names):
                _, known, results = self._within.setdefault(view.name, (view, {}, []))
                known.update(dict.fromkeys(fold.fold(name) for name in names))
                results.append(result)
            case InvalidateAll():
                self._drops.setdefault(command.view.name, (command, []))[1].append(result)
            case Persist():
                pass  # done

    def _add_block(self, command: Block, result: Applied) -> None:
        key = command.view.template.key(command.id)
        longest, results = self._blocks.get(key, (command, []))
        if longest.until is not None and (command.until is None or command.until > longest.until):
            longest = command
        self._blocks[key] = (longest, [*results, result])

    def run(self) -> None:
        """Write everything; an error goes to the events it concerns."""
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
        """All keys of one server, in one pipeline."""
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
        """What fails inside is the error of these results."""
        try:
            yield
        except CachekeeperError as error:
            for result in results:
                result.error = error


class _Change:
    """What a batch does to one key of a view."""

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
                # Its place among the writes is unknown, so none of them may stand.
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
        """The deadline first, so that the write respects it."""
        binding = keeper.binding(self.view)
        found: list[scripts.Step[Any]] = []
        if self._expires:
            # Remembered for twice the key's life and the latest redelivery: no write that was under way outlives that.
            keep_ms = 2 * binding.ttl_ms + round(keeper.settings.redelivery_seconds * 1000)
            found.append(
                scripts.expire(self._key, at_ms=0 if self._until is None else to_ms(self._until), keep_ms=keep_ms)
            )
        if self._invalidate:
            found.append(scripts.invalidate(self._key))
        elif self._write is not None:
            found.append(self._written(keeper, self._write, binding))
        return found
