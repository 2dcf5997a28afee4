"""Write MongoDB's half of a batch by majority: documents and blocks, those of one collection together.

A majority write takes a millisecond or two. One after the other, the writes of a batch would take most of its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, WriteConcernError, WriteError

from cachekeeper.connections.mongodb_errors import (
    TOO_LARGE,
    database_errors,
    is_refused,
    refusal,
    server_error,
    unavailable,
)
from cachekeeper.errors import CachekeeperError, DatabaseUnavailable
from cachekeeper.model.commands import Block, Command, Persist

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cachekeeper.model.views import BlocklistView
    from cachekeeper.reading.keeper import Keeper

_Wanted = TypeVar("_Wanted")
_Errors = dict[int, CachekeeperError]  # by place: DatabaseUnavailable or WriteRefused

# Writes in one command, within one time limit. Split, so that a large batch, or an event with many commands, still fits
# the time limit. Otherwise it would fail each time.
_AT_ONCE = 100


def persist(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[CachekeeperError | None]:
    """Write the documents and blocks of the `Persist` and `Block` commands of several events.

    Documents come before blocks; no other order is promised. After MongoDB has failed once, it is not asked again,
    because each further command would wait as long as the first. Earlier writes stay. An event succeeds only if all
    its writes did.

    Returns:
        The error of each event: `WriteRefused` if one of its own writes was refused, or `DatabaseUnavailable`; one of
        them if both occurred. None if a majority holds all its writes.
    """
    documents: dict[str, list[tuple[int, Persist]]] = {}
    blocks: dict[BlocklistView, list[tuple[int, Block]]] = {}
    for event, commands in enumerate(batch):
        for command in commands:
            if isinstance(command, Persist):
                documents.setdefault(command.view.loader.collection, []).append((event, command))
            elif isinstance(command, Block):
                blocks.setdefault(command.view, []).append((event, command))
    results = _Results([None] * len(batch))
    for collection, persists in documents.items():
        results.add(persists, partial(_write_documents, keeper, collection))
    for view, wanted in blocks.items():
        results.add(wanted, partial(_write_blocks, keeper, view))
    return results.errors


def persist_block(keeper: Keeper, block: Block) -> None:
    """Write one block. Raises DatabaseUnavailable, WriteRefused."""
    for error in _write_blocks(keeper, block.view, [block]).values():
        raise error


@dataclass(slots=True)
class _Results:
    """The results of the events so far."""

    errors: list[CachekeeperError | None]
    away: DatabaseUnavailable | None = None

    def add(self, wanted: list[tuple[int, _Wanted]], write: Callable[[list[_Wanted]], _Errors]) -> None:
        """Write these commands to MongoDB, up to `_AT_ONCE` together. Skip commands of events that have already failed.

        Args:
            wanted: the place of an event in the batch, and a command of that event.
            write: writes several commands, and returns the errors of those that failed, by their place in the list.
                Raises DatabaseUnavailable: MongoDB failed.
        """
        for start in range(0, len(wanted), _AT_ONCE):
            self._add(wanted[start : start + _AT_ONCE], write)

    def _add(self, wanted: list[tuple[int, _Wanted]], write: Callable[[list[_Wanted]], _Errors]) -> None:
        wanted = [(event, command) for event, command in wanted if self.errors[event] is None]
        if wanted and self.away is None:
            try:
                refused = write([command for _, command in wanted])
            except DatabaseUnavailable as error:
                self.away = error
            else:
                for place, why in refused.items():
                    self.errors[wanted[place][0]] = why
        if self.away is not None:
            for event, _ in wanted:
                self.errors[event] = self.away


def _write_documents(keeper: Keeper, name: str, wanted: Sequence[Persist]) -> _Errors:
    doing = f"writing {name}"
    writes = [
        UpdateOne({"_id": keeper.binding(persist.view).ids.parse(persist.id)}, list(persist.update), upsert=True)
        for persist in wanted
    ]
    with database_errors(doing, keeper.settings.load_timeout_seconds, name):
        return _bulk(keeper, name, writes, doing).refused


def _write_blocks(keeper: Keeper, view: BlocklistView, wanted: Sequence[Block]) -> _Errors:
    """Insert the blocks, and lengthen those that exist."""
    errors: _Errors = {}
    left = list(range(len(wanted)))
    doing = "writing blocks"
    with database_errors(doing, keeper.settings.load_timeout_seconds, view.collection):
        while left:
            inserts = [
                UpdateOne({"_id": wanted[place].id}, {"$setOnInsert": {view.ends: wanted[place].until}}, upsert=True)
                for place in left
            ]
            written = _bulk(keeper, view.collection, inserts, doing)
            errors.update((left[at], error) for at, error in written.refused.items())
            left = [place for at, place in enumerate(left) if at not in written.inserted and place not in errors]
            if not left:
                break
            # An existing block may be shorter. The TTL index may remove it before it is lengthened; then it is inserted
            # again.
            lengthened = _bulk(keeper, view.collection, [_lengthening(view, wanted[place]) for place in left], doing)
            errors.update((left[at], error) for at, error in lengthened.refused.items())
            if lengthened.found + len(lengthened.refused) == len(left):
                break
            left = [place for place in left if place not in errors]
    return errors


def _lengthening(view: BlocklistView, block: Block) -> UpdateOne:
    """Replace only an earlier date. Null, a missing field and any other type mean forever, and stay as they are."""
    ends = f"${view.ends}"
    is_shorter: dict[str, Any] = {"$eq": [{"$type": ends}, "date"]}
    if block.until is not None:
        is_shorter = {"$and": [is_shorter, {"$lt": [ends, block.until]}]}
    return UpdateOne({"_id": block.id}, [{"$set": {view.ends: {"$cond": [is_shorter, block.until, ends]}}}])


@dataclass(frozen=True, slots=True)
class _Written:
    """The result of several updates, as a majority holds it.

    Attributes:
        inserted: the places of the updates that created their document.
        found: how many updates found their document.
        refused: the errors of the updates that failed, by place.
    """

    inserted: frozenset[int]
    found: int
    refused: _Errors


def _bulk(keeper: Keeper, name: str, writes: Sequence[UpdateOne], doing: str) -> _Written:
    """Run all updates, even if some fail. Raises PyMongoError."""
    inserted: set[int] = set()
    found = 0
    errors: _Errors = {}
    places = list(range(len(writes)))
    tried = False
    while places:
        said = _answer(keeper, name, [writes[place] for place in places])
        inserted.update(places[made["index"]] for made in said["upserted"])
        found += said["nMatched"]
        problems = {places[problem["index"]]: problem for problem in said["writeErrors"]}
        # A refusal is final only in a second or later round in which nothing was written: one of these writes may make
        # room for another.
        doubtful = not tried or len(problems) < len(places)
        places = [place for place, problem in problems.items() if doubtful and is_refused(problem)]
        errors.update((place, _failure(name, problems[place], doing)) for place in problems.keys() - places)
        tried = True
    return _Written(frozenset(inserted), found, errors)


def _answer(keeper: Keeper, name: str, writes: Sequence[UpdateOne]) -> Mapping[str, Any]:
    """Return MongoDB's answer for each write. Raises PyMongoError: the command failed as a whole."""
    try:
        return keeper.database[name].bulk_write(writes, ordered=False).bulk_api_result
    except BulkWriteError as error:
        for problem in error.details["writeConcernErrors"]:  # unknown which of them a majority holds
            # Not the error itself: all events share it, and it quotes the values of each event.
            raise WriteConcernError(str(problem.get("errmsg")), problem.get("code")) from None
        return error.details
    except OperationFailure as error:
        # One document that is too large by itself fails the whole command. Split the command to find it.
        if error.code != TOO_LARGE:
            raise
        if len(writes) == 1:
            return {"upserted": [], "nMatched": 0, "writeErrors": [{"index": 0, **(error.details or {})}]}
    middle = len(writes) // 2
    return _joined(_answer(keeper, name, writes[:middle]), _answer(keeper, name, writes[middle:]), middle)


def _joined(first: Mapping[str, Any], second: Mapping[str, Any], middle: int) -> Mapping[str, Any]:
    """Join two answers into one. The second is about the writes from `middle` on."""
    joined: dict[str, Any] = {"nMatched": first["nMatched"] + second["nMatched"]}
    for name in ("upserted", "writeErrors"):
        joined[name] = [*first[name], *({**each, "index": each["index"] + middle} for each in second[name])]
    return joined


def _failure(name: str, problem: Mapping[str, Any], doing: str) -> CachekeeperError:
    error: CachekeeperError | None = refusal(name, problem)
    if error is None:
        failed = WriteError(str(problem.get("errmsg")), problem.get("code"), problem)
        error = unavailable(failed, doing, name)
        error.__cause__ = server_error(problem)  # not `failed`, which holds the values to be written
    return error
