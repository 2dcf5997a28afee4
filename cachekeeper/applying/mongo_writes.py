"""MongoDB's half of a batch: documents and blocks, by majority, those of one collection together.

A majority write takes a millisecond or two; one after the other, those of a batch would take most of its time.
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

# Writes in one command, within one time limit: a batch, or an event of many commands, must not need more time the more
# there is of it, or it would fail for ever.
_AT_ONCE = 100


def persist(keeper: Keeper, batch: Sequence[Sequence[Command]]) -> list[CachekeeperError | None]:
    """Write what the `Persist` and `Block` commands of several events ask for.

    Documents come before blocks, and no other order is promised. Once MongoDB has failed it is asked for nothing more:
    each command would wait as long as the first. What was written before that stays; only an event of which everything
    was has not failed.

    Returns:
        For each event what failed of it: `WriteRefused` for what it asks, or `DatabaseUnavailable`; where both did, one
        of them. None where a majority holds everything.
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
    """What became of the events so far."""

    errors: list[CachekeeperError | None]
    away: DatabaseUnavailable | None = None

    def add(self, wanted: list[tuple[int, _Wanted]], write: Callable[[list[_Wanted]], _Errors]) -> None:
        """Write what is wanted, each for the event of that number, but for those that have failed."""
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
    """Insert the blocks, and lengthen those that are there."""
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
            # One that is there may be shorter, and the TTL index may remove it before it is lengthened: then it is
            # inserted again.
            lengthened = _bulk(keeper, view.collection, [_lengthening(view, wanted[place]) for place in left], doing)
            errors.update((left[at], error) for at, error in lengthened.refused.items())
            if lengthened.found + len(lengthened.refused) == len(left):
                break
            left = [place for place in left if place not in errors]
    return errors


def _lengthening(view: BlocklistView, block: Block) -> UpdateOne:
    """Only a date that is earlier: null, a missing field and what is no date mean for ever, and for ever stays."""
    ends = f"${view.ends}"
    is_shorter: dict[str, Any] = {"$eq": [{"$type": ends}, "date"]}
    if block.until is not None:
        is_shorter = {"$and": [is_shorter, {"$lt": [ends, block.until]}]}
    return UpdateOne({"_id": block.id}, [{"$set": {view.ends: {"$cond": [is_shorter, block.until, ends]}}}])


@dataclass(frozen=True, slots=True)
class _Written:
    """What a majority holds of several updates.

    Attributes:
        inserted: the places of those that made their document.
        found: how many found it.
        refused: those that failed, each for itself.
    """

    inserted: frozenset[int]
    found: int
    refused: _Errors


def _bulk(keeper: Keeper, name: str, writes: Sequence[UpdateOne], doing: str) -> _Written:
    """All of them whatever becomes of one. Raises PyMongoError."""
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
        # What is refused is believed the second time, and not before nothing else was written any more: one of these
        # writes may make room for another.
        doubtful = not tried or len(problems) < len(places)
        places = [place for place, problem in problems.items() if doubtful and is_refused(problem)]
        errors.update((place, _failure(name, problems[place], doing)) for place in problems.keys() - places)
        tried = True
    return _Written(frozenset(inserted), found, errors)


def _answer(keeper: Keeper, name: str, writes: Sequence[UpdateOne]) -> Mapping[str, Any]:
    """What MongoDB says of each. Raises PyMongoError: of none."""
    try:
        return keeper.database[name].bulk_write(writes, ordered=False).bulk_api_result
    except BulkWriteError as error:
        for problem in error.details["writeConcernErrors"]:  # nobody knows of which of them a majority has heard
            # Not the error as it is: all events share it, and it quotes what was written for each.
            raise WriteConcernError(str(problem.get("errmsg")), problem.get("code")) from None
        return error.details
    except OperationFailure as error:
        # Of a document that is too large by itself, it is said of the whole command. Which is it?
        if error.code != TOO_LARGE:
            raise
        if len(writes) == 1:
            return {"upserted": [], "nMatched": 0, "writeErrors": [{"index": 0, **(error.details or {})}]}
    middle = len(writes) // 2
    return _joined(_answer(keeper, name, writes[:middle]), _answer(keeper, name, writes[middle:]), middle)


def _joined(first: Mapping[str, Any], second: Mapping[str, Any], middle: int) -> Mapping[str, Any]:
    """Two answers as one; the second is about the writes from `middle` on."""
    joined: dict[str, Any] = {"nMatched": first["nMatched"] + second["nMatched"]}
    for name in ("upserted", "writeErrors"):
        joined[name] = [*first[name], *({**each, "index": each["index"] + middle} for each in second[name])]
    return joined


def _failure(name: str, problem: Mapping[str, Any], doing: str) -> CachekeeperError:
    error: CachekeeperError | None = refusal(name, problem)
    if error is None:
        failed = WriteError(str(problem.get("errmsg")), problem.get("code"), problem)
        error = unavailable(failed, doing, name)
        error.__cause__ = server_error(problem)  # not `failed`, which holds what was to be written
    return error
