"""Marks: changes that take the same way as all others. An applied mark shows that all earlier changes are applied."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from cachekeeper.values.keys import meta_key
from lookups import USER_NAME
from producers import UserUpdated, outbox
from verification.chaos.schedule import Series

if TYPE_CHECKING:
    from verification.chaos.stack import Stack

_AGAIN_SECONDS = 1.0
_START_SECONDS = 60.0
_DRAIN_SECONDS = 60.0


def await_start(stack: Stack) -> None:
    """Wait until changes are applied. Marks are repeated: one from before the change stream began never arrives.

    Raises:
        TimeoutError: no mark was applied.
    """
    give_up, marks = time.monotonic() + _START_SECONDS, [_set_mark(stack)]
    again = time.monotonic() + _AGAIN_SECONDS
    while not any(_is_applied(stack, mark) for mark in marks):
        if time.monotonic() > give_up:
            raise TimeoutError(f"no change was applied within {_START_SECONDS:g} s of the start")
        if time.monotonic() > again:
            marks.append(_set_mark(stack))
            again += _AGAIN_SECONDS
        time.sleep(0.02)


def drain(stack: Stack) -> str | None:
    """Wait until every committed change has been applied. Return what is left after the time limit, or None."""
    give_up, mark = time.monotonic() + _DRAIN_SECONDS, _set_mark(stack)
    while not _is_applied(stack, mark):
        if time.monotonic() > give_up:
            return "the last event was not applied in time"
        time.sleep(0.02)
    while left := stack.database["outbox"].count_documents({}):
        if time.monotonic() > give_up:
            return f"{left} events are still in the outbox"
        time.sleep(0.02)
    while left := stack.waiting():
        if time.monotonic() > give_up:
            return f"{left} messages are still in the broker"
        time.sleep(0.02)
    return None


def _set_mark(stack: Stack) -> str:
    mark = f"mark-{uuid.uuid4()}"
    with stack.client.start_session() as session, session.start_transaction():
        stack.database["users"].insert_one({"_id": mark, "name": mark, "version": 1}, session=session)
        if stack.series is not Series.STREAM:
            outbox.add(stack.database, session, UserUpdated(user_id=mark, name=mark, version=1))
    return mark


def _is_applied(stack: Stack, mark: str) -> bool:
    key = USER_NAME.template.key(mark)
    with stack.cache.client() as client:
        return bool(client.exists(key, meta_key(key)))
