"""The message that a publisher sends: a Celery task message, protocol 2, with a list of events as its one argument."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cachekeeper.broker.names import LETTER_HEADER, OUTBOX_HEADER, TASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """Events on their way to the broker, as one message.

    Attributes:
        texts: the events, each as JSON (`event_text`); at most as many as fit into a message (`packed`).
        stored: whether the events are records of the outbox. The worker removes them there once it has handled them.
        failed: for a dead letter that is published again: how often it had failed, and when it failed first, in
            milliseconds since 1970. Such an event travels alone, so that it cannot delay others when it fails again.
        id: names the message; the same in every redelivery.
    """

    texts: Sequence[str] = field(repr=False)  # they may hold tokens
    stored: bool = False
    failed: tuple[int, int] | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def body(self) -> bytes:
        """Body of the task message."""
        return task_body(self.texts)

    @property
    def headers(self) -> dict[str, Any]:
        """Headers of the task message."""
        headers = task_headers(self.id, len(self.texts))
        if self.stored:
            headers[OUTBOX_HEADER] = True
        if self.failed is not None:
            headers[LETTER_HEADER] = list(self.failed)
        return headers


def task_headers(message_id: str, events: int) -> dict[str, Any]:
    """Return the headers of a Celery task message, protocol 2.

    Args:
        message_id: names the message.
        events: how many it carries. `argsrepr` contains only this number, because Celery logs it.
    """
    return {
        "lang": "py",
        "task": TASK,
        "id": message_id,
        "root_id": message_id,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timelimit": [None, None],
        "ignore_result": True,
        "argsrepr": f"({events} events)",
        "kwargsrepr": "{}",
        "origin": "cachekeeper",
    }


def task_body(events: Iterable[str]) -> bytes:
    """Return the body of a Celery task message, protocol 2: arguments, keyword arguments, and no task to call next.

    Args:
        events: JSON texts. They become the one argument, a list.
    """
    nothing_next = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
    return f"[[[{','.join(events)}]],{{}},{nothing_next}]".encode()
