"""`cachekeeper stream`: turn changes in MongoDB into events in the outbox."""

import logging
import signal
import sys
from typing import Annotated

import typer


def stream(
    *,
    check: Annotated[bool, typer.Option("--check", help="Exit with status 0 if a live process leads, else 1.")] = False,
) -> None:
    """Turn changes in MongoDB into events in the outbox, until ctrl-C or SIGTERM.

    Several may run at the same time: one of them leads. A killed one loses nothing: another one continues after the
    last events that it stored.
    """
    if check:
        _check()
        return
    from cachekeeper.errors import SettingsError  # noqa: PLC0415
    from cachekeeper.model.registry import load_checked  # noqa: PLC0415
    from cachekeeper.relays.change_stream_relay import ChangeRelay  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.settings import StreamSettings  # noqa: PLC0415

    logging.basicConfig(format="%(asctime)s %(message)s")
    settings, registry = load_checked(StreamSettings)
    if not registry.watches:
        raise SettingsError(
            "CACHEKEEPER_MODULES: none of these modules registers changes in MongoDB to watch; add one that does"
        )
    made = ChangeRelay(settings, registry)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: made.stop())
    typer.echo(f"watching {', '.join(registry.watches)}", err=True)
    try:
        made.run()
    finally:
        made.close()
    typer.echo("ended", err=True)


def _check() -> None:
    from cachekeeper.connections.mongodb import connect_mongodb  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.relays.stream_health import Leader, seek_leader  # noqa: PLC0415
    from cachekeeper.settings import OutboxSettings, load  # noqa: PLC0415

    settings = load(OutboxSettings)
    database = connect_mongodb(settings.mongodb_url, settings.load_timeout_seconds)
    with database.client:
        found = seek_leader(database, settings.load_timeout_seconds)
    if found is not Leader.ALIVE:
        sys.exit(f"cachekeeper: {found.value}")
