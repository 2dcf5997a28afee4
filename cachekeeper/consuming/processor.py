"""Decodes, handles and applies messages; keeps dead letters; reads warm views through after an event."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from cachekeeper.applying.batch import Applied, apply
from cachekeeper.applying.ttl_indexes import IndexKeeper
from cachekeeper.connections.mongodb_errors import database_errors
from cachekeeper.consuming.dead_letters import COLLECTION, EXPIRY, DeadLetter, keep, too_deep_event, unreadable_message
from cachekeeper.consuming.messages import DeepEvent, EventMessage, Failures, Poison
from cachekeeper.consuming.pause import Pause
from cachekeeper.consuming.signals import signal_errors
from cachekeeper.errors import CachekeeperError, CacheOverloaded, Unavailable
from cachekeeper.metrics import COUNTERS, log_once, logger
from cachekeeper.model.commands import Command, Invalidate, Write
from cachekeeper.model.views import Server, View
from cachekeeper.protocol import cache_errors
from cachekeeper.protocol.outcomes import Changed, Invalidated
from cachekeeper.reading.keeper import Keeper
from cachekeeper.relays.outbox import remove_delivered
from cachekeeper.runtime.failures import log_failure
from cachekeeper.upkeep.blocklist_keeper import BlocklistKeeper
from cachekeeper.upkeep.rollback_watch import PROBE_KEY, RollbackWatch
from cachekeeper.upkeep.warming import warm_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.model.registry import Registry
    from cachekeeper.runtime.periodic import PeriodicThread
    from cachekeeper.settings import Settings

_PROBE_SECONDS = 60
_WARMED = (Write, Invalidate)  # a tuple: `|` would make a new union for each command


class Verdict(Enum):
    """How the worker answers a message after processing it."""

    DONE = "done"  # every event is applied or became a dead letter: acknowledge
    AWAY = "away"  # a server is unavailable: put it back


class Processor:
    """The work of one worker process, without Celery.

    Args:
        settings: the settings of this process.
        registry: the views, events and handlers.

    Attributes:
        pause: tells whether the worker may fetch events.
        keeper: holds the clients.
        indexes: makes the TTL indexes, from `start` on.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.keeper = Keeper(settings)
        self.registry = registry
        self.pause = Pause(self._probe)
        views = registry.views.values()
        inhabited = sorted({view.server for view in views})
        self._servers = inhabited or [Server.CACHE]
        self._watches = [
            RollbackWatch(self.keeper, server, [view for view in views if view.server is server])
            for server in inhabited
        ]
        self._threads: list[PeriodicThread] = [BlocklistKeeper(self.keeper, view) for view in registry.blocklists]
        self.indexes = IndexKeeper(self.keeper, [*registry.indexes, EXPIRY])
        self._threads.append(self.indexes)

    def start(self) -> None:
        """Watch for older data, make the indexes, keep the blocklists ready, and begin to fetch.

        If a server is unavailable, its part is done once the server is back. Returns within the time limits of one call
        to each server.
        """
        for watch in self._watches:
            watch.start()
        for watch in self._watches:
            watch.wait_for_first_answer()  # before this worker's first key
        for thread in self._threads:
            thread.start()
        self.pause.start()

    def stop(self) -> None:
        """Stop the threads that `start` began. Messages in flight may still be processed."""
        self.pause.stop()
        for thread in (*self._watches, *self._threads):
            thread.stop()

    def process(self, messages: Sequence[EventMessage | Poison]) -> Iterator[tuple[int, Verdict]]:
        """Process messages. Each wait for a server has its time limit; a large message may take several waits.

        Messages are processed together, to share a round trip. A message that failed earlier while the servers were up
        is processed alone, because it may make the others fail.

        Yields:
            The position of each message and its verdict, as soon as that is known. The caller puts back every message
            for which nothing was yielded when this ends or raises.
        """
        struck = {at: strikes for at, each in enumerate(messages) if (strikes := self.pause.strikes(each.id))}
        together = [at for at in range(len(messages)) if at not in struck]
        alone = [([at], strikes) for at, strikes in struck.items()]
        for places, strikes in [(together, 0), *alone] if together else alone:
            if not self.pause.is_over:
                return  # in flight when the outage began: put back at once, without asking the servers again
            chosen = [messages[at] for at in places]
            try:
                self._deal_with(chosen, strikes)
            except Exception as error:  # noqa: BLE001  # a bug of ours must not lose a message; `_away` logs it
                self._away(chosen, error)
                continue
            for at in places:
                if strikes:
                    self.pause.forgive(messages[at].id)
                yield at, Verdict.DONE

    def _away(self, messages: Sequence[EventMessage | Poison], error: Exception) -> None:
        COUNTERS.add("message_put_back", len(messages))
        if not isinstance(error, CachekeeperError):
            _log_fault("unexpected error; the messages are put back", error)
        for message in messages:
            # If the pool was full, Redis was not asked, so the message is not suspect.
            self.pause.begin(None if isinstance(error, CacheOverloaded) else message.id, error)

    def _deal_with(self, messages: Sequence[EventMessage | Poison], strikes: int) -> None:
        letters: list[DeadLetter] = []
        bodies: list[tuple[object, Failures | None]] = []
        batch: list[list[Command]] = []
        for message in messages:
            if isinstance(message, Poison):
                letters.append(unreadable_message(message))
                continue
            for body in message.events:
                if isinstance(body, DeepEvent):
                    letters.append(too_deep_event(body, message.failures))
                    continue
                try:
                    commands = self.registry.commands(self.registry.decode(body))
                except signal_errors():
                    raise
                # Kept with its traceback. Otherwise one bad event would stop the others and be redelivered forever.
                # `sys.exit` and `CancelledError` come from a handler as well.
                except BaseException as error:  # noqa: BLE001
                    letters.append(DeadLetter(body, error, message.failures))
                else:
                    bodies.append((body, message.failures))
                    batch.append(commands)
        results = self._apply(batch, strikes)
        failed = [
            DeadLetter(body, result.error, failures)
            for (body, failures), result in zip(bodies, results, strict=True)
            if result.error
        ]
        self._keep(letters + failed)
        # Last: a removed record is not published again, so its event must be applied before.
        records = [
            {"id": body.id} if isinstance(body, DeepEvent) else body
            for message in messages
            if isinstance(message, EventMessage) and message.outbox
            for body in message.events
        ]
        if records:
            remove_delivered(self.keeper, records)
        COUNTERS.add("event_applied", len(results) - len(failed))
        self._warm(batch, results)

    def _apply(self, batch: Sequence[Sequence[Command]], strikes: int) -> list[Applied]:
        """Apply a batch. An error in its results is permanent.

        Raises:
            Unavailable: a server is unavailable, or appears to be.
        """
        if not strikes:
            try:
                results = apply(self.keeper, batch)
            except CachekeeperError:
                raise
            except signal_errors():
                raise
            except BaseException as error:  # noqa: BLE001  # such as a value that MongoDB's driver cannot write
                _log_fault("a batch of events failed; applying its events one by one", error)
            else:
                for result in results:
                    if isinstance(result.error, Unavailable):
                        raise result.error
                return results
        return [self._apply_one(commands, strikes) for commands in batch]

    def _apply_one(self, commands: Sequence[Command], strikes: int) -> Applied:
        """Apply one event alone, because an event of its batch may be the cause of a failure."""
        for _ in range(2):
            result = self._alone(commands)
            if not isinstance(result.error, Unavailable):
                break
            if strikes < self.pause.STRIKES or isinstance(result.error, CacheOverloaded):
                raise result.error  # a full pool is never the event's fault, even after many strikes
            # The message failed repeatedly while the servers were up. If the servers answer now, the event fails again,
            # and they answer again, the event is the cause. One failure is not enough: an outage that begins just now
            # would also turn the innocent events of the message into dead letters.
            self._probe()
        return result

    def _alone(self, commands: Sequence[Command]) -> Applied:
        try:
            (result,) = apply(self.keeper, [commands])
        except signal_errors():
            raise
        except BaseException as error:  # noqa: BLE001  # becomes a dead letter, with its traceback
            return Applied(error)
        return result

    def _keep(self, letters: Sequence[DeadLetter]) -> None:
        keep(self.keeper, self.registry, letters)
        for letter in letters:
            COUNTERS.add("event_dead_lettered")
            text = f": {letter.error}" if isinstance(letter.error, CachekeeperError) else ""
            logger.error("stored a dead letter in %s: %s%s", COLLECTION, type(letter.error).__name__, text)

    def _warm(self, batch: Sequence[Sequence[Command]], results: Sequence[Applied]) -> None:
        """Read keys of warm views that the events left without a value. Best effort: else the next reader loads."""
        wanted: dict[View[Any], dict[str, None]] = {}
        for commands, result in zip(batch, results, strict=True):
            for command in commands:
                if isinstance(command, _WARMED) and command.view.warm and result.error is None:
                    key = command.view.template.key(command.id)
                    if result.outcomes.get(key) in (Changed.MARKED, Invalidated.INVALIDATED):
                        wanted.setdefault(command.view, {})[command.id] = None
        for view, parts in wanted.items():
            try:
                warm_keys(self.keeper, view, parts)
            except signal_errors():
                raise
            except BaseException as error:  # noqa: BLE001  # the events are applied already
                COUNTERS.add("warm_failed", len(parts))
                name = type(error).__name__
                log_once(f"warm:{view.name}:{name}", "view %s: warming after an event failed (%s)", view.name, name)

    def _probe(self) -> None:
        """Try a write on each server, since applying events needs writes. A full or read-only server answers a PING.

        Raises:
            CacheUnavailable, DatabaseUnavailable: a server is unavailable; events are not fetched yet.
        """
        for server in self._servers:
            store = self.keeper.store(server)
            with cache_errors("trying a write"):
                if store.is_cluster:
                    store.client.ping(target_nodes="primaries")
                store.client.set(PROBE_KEY, "true", ex=_PROBE_SECONDS)
        with database_errors("trying a write", self.keeper.settings.load_timeout_seconds, COLLECTION):
            # Deletes nothing. MongoDB answers when a majority has everything that was written before.
            self.keeper.database[COLLECTION].delete_one({"_id": "probe"})


def _log_fault(what: str, error: BaseException) -> None:
    COUNTERS.add("delivery_fault")
    log_failure(what, error=error)
