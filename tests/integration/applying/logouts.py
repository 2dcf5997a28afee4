"""Batches of logouts, for tests of what MongoDB is asked for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cachekeeper.applying.batch import apply
from cachekeeper.errors import CachekeeperError, DatabaseUnavailable
from cachekeeper.model.commands import Block, Command, Expire, Persist
from lookups import BLOCKED, SESSION
from lookups.sessions import END_SESSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachekeeper.reading.keeper import Keeper
    from testkit.taps import MongoTap

LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
LATEST = LATER + timedelta(days=1)


def logout(number: int, until: datetime | None = LATER) -> list[Command]:
    """What the event asks for: session `s`, token `t`, each with its number."""
    name = f"s{number}"
    return [Persist(SESSION, name, END_SESSION), Expire(SESSION, name), Block(BLOCKED, f"t{number}", until)]


def logouts(count: int, until: datetime | None = LATER) -> list[list[Command]]:
    """The first so many."""
    return [logout(number, until) for number in range(count)]


def failures(
    keeper: Keeper, batch: Sequence[Sequence[Command]], kind: type[CachekeeperError] = DatabaseUnavailable
) -> list[int]:
    """Which of the events fail, all of them in that way."""
    errors = [result.error for result in apply(keeper, batch)]
    assert {type(error) for error in errors if error is not None} <= {kind}
    return [place for place, error in enumerate(errors) if error is not None]


def blocks_of(mongo: MongoTap) -> dict[str, datetime | None]:
    """When each block ends, in MongoDB."""
    return {found["_id"]: found.get("expires_at") for found in mongo.database["blocked_tokens"].find()}


def ended(mongo: MongoTap) -> set[str]:
    """The sessions that have ended there."""
    return {found["_id"] for found in mongo.database["sessions"].find({"ended_at": {"$type": "date"}})}
