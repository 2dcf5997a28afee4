"""`cachekeeper relay`: publish the events in the outbox."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cachekeeper.relays.outbox import Lag
    from cachekeeper.settings import OutboxSettings

_LONGEST_WAIT_SECONDS = 60.0
"""The longest time until an event is published the first time, while a relay runs and the broker answers."""

_LAG_SECONDS = 30.0
"""The time that MongoDB has to count the records, which may be millions."""

CHECK_SECONDS = 10.0
"""The time that MongoDB has in a health check, which must say what is wrong before Docker kills it (Compose file)."""


def relay(
    *,
    lag: Annotated[
        bool, typer.Option("--lag", help="Print the number of events in the outbox and their age, and exit.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with status 0 if the outbox is being published, else 1.")
    ] = False,
) -> None:
    """Publish the events in the outbox, until ctrl-C or SIGTERM.

    Several relays may run at the same time. A killed relay loses nothing: the next one publishes the rest.
    """
    if lag:
        _print_lag()
        return
    if check:
        _check()
        return
    from cachekeeper.relays.outbox_relay import Relay  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.settings import RelaySettings, load  # noqa: PLC0415

    logging.basicConfig(format="%(asctime)s %(message)s")
    made = Relay(load(RelaySettings))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: made.stop())
    typer.echo("publishing what is in the outbox", err=True)
    try:
        made.run()
    finally:
        made.close()
    typer.echo("ended", err=True)


def _print_lag() -> None:
    from cachekeeper.settings import OutboxSettings, load  # noqa: PLC0415  (see cachekeeper.cli.app)

    found = _lag(load(OutboxSettings), _LAG_SECONDS)
    for name in ("events", "under_way"):
        sys.stdout.write(f"{name} {getattr(found, name)}\n")
    for name in ("oldest_seconds", "unpublished_seconds"):
        seconds = getattr(found, name)
        sys.stdout.write(f"{name} {'none' if seconds is None else f'{seconds:.1f}'}\n")


def _check() -> None:
    from cachekeeper.settings import RelaySettings, load  # noqa: PLC0415  (see cachekeeper.cli.app)

    settings = load(RelaySettings)
    found = _lag(settings, CHECK_SECONDS)
    # While no worker runs, the relay stops at the limit, and is healthy. The test is for half the limit, because the
    # count soon falls below the limit once workers start.
    if found.unpublished_seconds is None or 2 * found.under_way >= settings.outbox_limit_events:
        return
    if found.unpublished_seconds >= _LONGEST_WAIT_SECONDS:
        sys.exit(
            f"cachekeeper: one event in the outbox has waited {found.unpublished_seconds:.0f} s, unpublished; "
            "check the relay and the broker"
        )


def _lag(settings: OutboxSettings, seconds: float) -> Lag:
    from cachekeeper.connections.mongodb import connect_mongodb, majority  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.relays.outbox import outbox_lag  # noqa: PLC0415

    database = majority(connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds))
    with database.client:
        return outbox_lag(database, seconds=seconds)
