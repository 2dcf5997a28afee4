"""Points at which a process kills itself (SIGKILL), once for each file of that name in the directory `TEST_FAULTS`.

`python -m testkit.faults relay` (or `stream`) is that command with such points, `testkit.faults_worker` such a worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachekeeper.relays.change_stream_relay import ChangeRelay
from cachekeeper.relays.outbox_relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cachekeeper.model.events import Event

VARIABLE = "TEST_FAULTS"
MUTANT = "TEST_MUTANT"
"""Names a known-bad variant, for programs that have one."""


def point(name: str) -> None:
    """End this process here, if there is a file with this name."""
    with contextlib.suppress(FileNotFoundError):
        Path(os.environ[VARIABLE], name).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def before(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a point before it."""

    def wrapped(*args: Any, **options: Any) -> Any:
        point(name)
        return function(*args, **options)

    return wrapped


class FaultyRelay(Relay):
    """A relay that can be killed between claim and publication, and after it."""

    def _publish(self, records: Sequence[Mapping[str, Any]]) -> int:
        if records:
            point("relay-claimed")
        published = super()._publish(records)
        if records:
            point("relay-published")
        return published


class DeletesWhenPublished(Relay):
    """A known-bad relay: an ordinary outbox, which deletes events once they are published."""

    def _publish(self, records: Sequence[Mapping[str, Any]]) -> int:
        published = super()._publish(records)
        self._outbox.delete_many({"_id": {"$in": [record["_id"] for record in records]}})
        return published


class FaultyForgetfulRelay(DeletesWhenPublished, FaultyRelay):
    """The known-bad relay, with the points of `FaultyRelay`."""


class FaultyChangeRelay(ChangeRelay):
    """A change relay that can be killed between reading and storing, and after it. Its lease lasts 1 s, not 10 s."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"lease_seconds": 1.0, **options})

    def _store(self, events: Sequence[Event], place: Mapping[str, Any] | None) -> None:
        if events:
            point("stream-read")
        super()._store(events, place)
        if events:
            point("stream-stored")


if __name__ == "__main__":
    from cachekeeper.cli import main
    from cachekeeper.relays import change_stream_relay as streaming
    from cachekeeper.relays import outbox_relay as relay

    # Replaces the classes that the commands use.
    forgetful = os.environ.get(MUTANT) == "forgets"
    relay.Relay = FaultyForgetfulRelay if forgetful else FaultyRelay  # type: ignore[misc]
    streaming.ChangeRelay = FaultyChangeRelay  # type: ignore[misc]
    main()
