"""Loaded into every worker by `CACHEKEEPER_MODULES`: notes when the writes for an event have returned.

It also leads the worker's connections through the proxy. Nothing of the product changes, unless a mutant is asked for.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.chaos.mutants import mutate
from benchmarks.chaos.proxy import detour
from benchmarks.chaos.workload import Ack, Kind
from cachekeeper import applying
from cachekeeper.delivery import work
from cachekeeper.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cachekeeper.applying import Applied
    from cachekeeper.commands import Command
    from cachekeeper.events import Event
    from cachekeeper.keeper import Keeper

JOURNAL = "CHAOS_JOURNAL"
PORTS = "CHAOS_PORTS"
MUTANT = "CHAOS_MUTANT"


class _Told(list["Command"]):
    """An event's commands, which know the event."""

    def __init__(self, commands: Sequence[Command], event: Event) -> None:
        super().__init__(commands)
        self.event = event


def register(_: Registry) -> None:
    """Nothing is registered; the worker imports this module for its own sake."""
    mutate(os.environ.get(MUTANT))
    if ports := os.environ.get(PORTS):
        detour({int(port): to for port, to in json.loads(ports).items()})
    journal = os.open(
        Path(os.environ[JOURNAL]) / f"acks-{os.getpid()}-{time.monotonic_ns()}.jsonl",
        os.O_WRONLY | os.O_CREAT | os.O_APPEND,
        0o600,
    )
    commands_of, apply = Registry.commands, applying.apply

    def commands(self: Registry, event: Event) -> list[Command]:
        return _Told(commands_of(self, event), event)

    def applied(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[Applied]:
        results = apply(keeper, batch)
        at = time.monotonic_ns()
        told = [
            ack
            for commands, result in zip(batch, results, strict=True)
            if result.error is None and isinstance(commands, _Told)
            for ack in _acks(commands.event, at)
        ]
        # One write to the file for a batch: a process that is killed leaves whole lines.
        os.write(journal, "".join(f"{json.dumps(ack)}\n" for ack in told).encode())
        return results

    # Where the worker finds them: which is how a spy gets in.
    Registry.commands = commands  # type: ignore[method-assign]
    work.apply = applied  # type: ignore[attr-defined]


def _acks(event: Event, at: int) -> Iterator[tuple[int, str, str, str, str | None, int]]:
    wall = round(event.time.timestamp() * 1000)
    said = event.model_dump(include={"user_id", "product_id", "session_id", "token_id", "name"})
    kinds = (
        (Kind.PRODUCT, "product_id"),
        (Kind.SESSION, "session_id"),
        (Kind.TOKEN, "token_id"),
        (Kind.USER, "user_id"),
    )
    for kind, field in kinds:
        if said.get(field) is not None:
            yield at, event.id, kind, said[field], said.get("name"), wall


def read_acks(text: str) -> list[Ack]:
    """What workers have written."""
    return [Ack(*json.loads(line)) for line in text.splitlines()]
