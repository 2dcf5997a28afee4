"""`cachekeeper relay`: publish what is in the outbox."""

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
"""For an event to be published the first time, while a relay runs and the broker answers."""

_LAG_SECONDS = 30.0
"""For MongoDB to count what may be millions of records."""

CHECK_SECONDS = 10.0
"""For MongoDB's answer to a health check: it must say what is wrong before it is killed (docker-compose.yml)."""


def relay(
    *,
    lag: Annotated[bool, typer.Option("--lag", help="Print how much is in the outbox, and exit.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 0 if it is published, 1 if not.")] = False,
) -> None:
    """Publish what is in the outbox until ctrl-C or SIGTERM.

    Any number may run. Killed, it loses nothing: what it has not published, the next one does.
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
    # While no worker runs, the relay publishes no more than the limit. Half of it: once they run it is soon below.
    if found.unpublished_seconds is None or 2 * found.under_way >= settings.outbox_limit_events:
        return
    if found.unpublished_seconds >= _LONGEST_WAIT_SECONDS:
        sys.exit(f"cachekeeper: an event waits in the outbox since {found.unpublished_seconds:.0f} s, unpublished")


def _lag(settings: OutboxSettings, seconds: float) -> Lag:
    from cachekeeper.connections.mongodb import connect_mongodb, majority  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.relays.outbox import outbox_lag  # noqa: PLC0415

    database = majority(connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds))
    with database.client:
        return outbox_lag(database, seconds=seconds)
