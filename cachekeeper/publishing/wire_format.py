"""The message that a publisher sends: a Celery task message, protocol 2, whose one argument is a list of events."""

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
        texts: the events, each as JSON (`event_text`); no more than fit into a message (`packed`).
        stored: whether they are records of the outbox: the worker that has dealt with them removes them there.
        failed: of a dead letter that is published again, how often it had failed, and when for the first time, in
            milliseconds since 1970. Such an event travels alone: what has failed must not delay others.
        id: names the message; the same in every redelivery.
    """

    texts: Sequence[str] = field(repr=False)  # they may hold tokens
    stored: bool = False
    failed: tuple[int, int] | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def body(self) -> bytes:
        """The body of the task message."""
        return task_body(self.texts)

    @property
    def headers(self) -> dict[str, Any]:
        """The headers of the task message."""
        headers = task_headers(self.id, len(self.texts))
        if self.stored:
            headers[OUTBOX_HEADER] = True
        if self.failed is not None:
            headers[LETTER_HEADER] = list(self.failed)
        return headers


def task_headers(message_id: str, events: int) -> dict[str, Any]:
    """The headers of a Celery task message, protocol 2.

    Args:
        message_id: names the message.
        events: how many it carries. `argsrepr` says so and no more: Celery writes it into logs.
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
    """The body of a Celery task message, protocol 2: arguments, keyword arguments, and what to call next: nothing.

    Args:
        events: JSON texts; they make up the one argument, a list.
    """
    nothing_next = '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
    return f"[[[{','.join(events)}]],{{}},{nothing_next}]".encode()
