"""`cachekeeper stream`: turn what changes in MongoDB into events in the outbox."""

import logging
import signal

import typer


def stream() -> None:
    """Store the events of what changes in MongoDB in the outbox until ctrl-C or SIGTERM.

    Any number may run: one leads. Killed, it loses nothing: another one goes on where its last events are stored.
    """
    from cachekeeper.delivery.streaming import ChangeRelay  # noqa: PLC0415  (see cachekeeper.cli.app)
    from cachekeeper.errors import SettingsError  # noqa: PLC0415
    from cachekeeper.registry import load_checked  # noqa: PLC0415
    from cachekeeper.settings import StreamSettings  # noqa: PLC0415

    logging.basicConfig(format="%(asctime)s %(message)s")
    settings, registry = load_checked(StreamSettings)
    if not registry.watches:
        raise SettingsError("CACHEKEEPER_MODULES: none of these modules says what changes in MongoDB mean")
    made = ChangeRelay(settings, registry)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: made.stop())
    typer.echo(f"watching {', '.join(registry.watches)}", err=True)
    try:
        made.run()
    finally:
        made.close()
    typer.echo("ended", err=True)
