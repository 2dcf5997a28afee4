"""Points at which a process kills itself (SIGKILL), once for each file of that name that the test has put there.

`python -m tests.real.faults` is a relay with such points; `tests.real.faults_worker` a worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachekeeper.delivery.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

VARIABLE = "TEST_FAULTS"


def point(name: str) -> None:
    """End here, if that is wanted."""
    with contextlib.suppress(FileNotFoundError):
        Path(os.environ[VARIABLE], name).unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def before(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with a point before it."""

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


if __name__ == "__main__":
    from cachekeeper.cli import main
    from cachekeeper.delivery import relay

    relay.Relay = FaultyRelay  # type: ignore[misc]  # for the command, which is run as it is
    main()
