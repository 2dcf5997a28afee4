"""The verdicts of a worker's processor on messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cachekeeper.consuming.processor import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachekeeper.consuming.messages import EventMessage, Poison
    from cachekeeper.consuming.processor import Processor


def verdicts(processor: Processor, messages: Sequence[EventMessage | Poison]) -> list[Verdict]:
    """Return the verdict on each message, in their order."""
    said = [Verdict.AWAY] * len(messages)
    for at, verdict in processor.process(messages):
        said[at] = verdict
    return said
