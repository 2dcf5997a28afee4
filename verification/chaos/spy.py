"""Note when the writes for an event have returned. Every worker loads this module by `CACHEKEEPER_MODULES`.

It also leads the worker's connections through the proxy. Only a named mutant changes the product's behaviour.
"""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachekeeper.applying import batch as applying
from cachekeeper.consuming import processor
from cachekeeper.consuming.messages import EventMessage
from cachekeeper.model.registry import Registry
from verification.chaos.mutants import mutate
from verification.chaos.proxy import detour
from verification.chaos.workload import Ack, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cachekeeper.applying.batch import Applied
    from cachekeeper.consuming.messages import Failures
    from cachekeeper.model.commands import Command
    from cachekeeper.model.events import Event
    from cachekeeper.reading.keeper import Keeper

JOURNAL = "CHAOS_JOURNAL"
PORTS = "CHAOS_PORTS"
MUTANT = "CHAOS_MUTANT"


class _Record(dict[str, Any]):
    """The body of an event that came as a record of the outbox."""


class _Told(list["Command"]):
    """An event's commands, with the event, and whether it came as a record of the outbox."""

    def __init__(self, commands: Sequence[Command], event: Event, *, outbox: bool) -> None:
        super().__init__(commands)
        self.event = event
        self.outbox = outbox


class Spy:
    """Watches the functions that read, decode and apply messages.

    Args:
        write: writes lines to the journal.
        clock: returns monotonic nanoseconds.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._write = write
        self._clock = clock
        self._local = threading.local()

    def watch(self) -> None:
        """Replace the watched functions where the worker looks them up."""
        self._watch_messages()
        self._watch_writes()

    def _watch_messages(self) -> None:
        """Mark the events whose message came from the outbox. A plain copy leaves its record in the outbox."""
        make, decode, commands_of, local = EventMessage.__init__, Registry.decode, Registry.commands, self._local

        def made(
            self: EventMessage,
            id: str,  # noqa: A002  # the name of the field
            events: Sequence[object],
            outbox: bool = False,  # noqa: FBT001, FBT002  # as in the dataclass
            failures: Failures | None = None,
        ) -> None:
            marked = [_Record(body) if outbox and isinstance(body, dict) else body for body in events]
            make(self, id, marked, outbox, failures)

        def decoded(self: Registry, body: object) -> Event:
            event = decode(self, body)
            local.record = event if isinstance(body, _Record) else None
            return event

        def commands(self: Registry, event: Event) -> list[Command]:
            return _Told(commands_of(self, event), event, outbox=getattr(local, "record", None) is event)

        EventMessage.__init__ = made  # type: ignore[method-assign]
        Registry.decode = decoded  # type: ignore[method-assign]
        Registry.commands = commands  # type: ignore[method-assign]

    def _watch_writes(self) -> None:
        """Note when the last of an event's own writes has returned: then it is acknowledged, even if its batch goes on.

        A later time would excuse a stale read in between. The writes of one pipeline return together.
        """
        apply, guard, local, clock = applying.apply, applying._Plan._guard, self._local, self._clock  # noqa: SLF001

        @contextmanager
        def guarded(results: Sequence[Applied]) -> Iterator[None]:
            with guard(results):
                yield
            at = clock()
            returned = vars(local).setdefault("returned", {})
            returned.update((id(result), at) for result in results)

        def applied(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[Applied]:
            local.returned = {}
            results = apply(keeper, batch)
            at = clock()  # for events that wrote nothing to Redis
            told = [
                ack
                for commands, result in zip(batch, results, strict=True)
                if result.error is None and isinstance(commands, _Told)
                for ack in _acks(commands, local.returned.get(id(result), at))
            ]
            # One write to the file for each batch, so that a killed process leaves only whole lines.
            self._write("".join(f"{json.dumps(ack)}\n" for ack in told))
            return results

        applying._Plan._guard = staticmethod(guarded)  # type: ignore[method-assign]  # noqa: SLF001
        processor.apply = applied  # type: ignore[attr-defined]


def register(_: Registry) -> None:
    """Start the spy. It registers nothing; the worker calls this function in every module that it imports."""
    mutate(os.environ.get(MUTANT))
    if ports := os.environ.get(PORTS):
        detour({int(port): to for port, to in json.loads(ports).items()})
    journal = os.open(
        Path(os.environ[JOURNAL]) / f"acks-{os.getpid()}-{time.monotonic_ns()}.jsonl",
        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
        0o600,
    )
    Spy(lambda lines: os.write(journal, lines.encode())).watch()


def _acks(told: _Told, at: int) -> Iterator[Ack]:
    event = told.event
    wall = round(event.time.timestamp() * 1000)
    said = event.model_dump(include={"user_id", "product_id", "session_id", "token_id", "name"})
    kinds = (
        (Kind.PRODUCT, "product_id"),
        (Kind.SESSION, "session_id"),
        (Kind.TOKEN, "token_id"),
        (Kind.USER, "user_id"),
    )
    for kind, name in kinds:
        if said.get(name) is not None:
            yield Ack(at, event.id, kind, said[name], said.get("name"), wall, told.outbox)


def read_acks(text: str) -> list[Ack]:
    """Parse the lines that workers have written to their journals."""
    return [Ack(*json.loads(line)) for line in text.splitlines()]
