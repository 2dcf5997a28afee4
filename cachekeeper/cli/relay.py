"""`cachekeeper relay`: publish what is in the outbox."""

import logging
import signal
import sys
from typing import Annotated

import typer


def relay(
    *, lag: Annotated[bool, typer.Option("--lag", help="Print how much is in the outbox, and exit.")] = False
) -> None:
    """Publish what is in the outbox until ctrl-C or SIGTERM.

    Any number may run. Killed, it loses nothing: what it has not published, the next one does.
    """
    if lag:
        _print_lag()
        return
    from cachekeeper.delivery.relay import Relay  # noqa: PLC0415  (see cachekeeper.cli.app)
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
    from cachekeeper.clients import connect_mongodb  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.database import majority  # noqa: PLC0415
    from cachekeeper.delivery.outbox import outbox_lag  # noqa: PLC0415
    from cachekeeper.settings import OutboxSettings, load  # noqa: PLC0415

    settings = load(OutboxSettings)
    database = majority(connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds))
    with database.client:
        found = outbox_lag(database)
    oldest = "none" if found.oldest_seconds is None else f"{found.oldest_seconds:.1f}"
    sys.stdout.write(f"events {found.events}\nunder_way {found.under_way}\noldest_seconds {oldest}\n")
