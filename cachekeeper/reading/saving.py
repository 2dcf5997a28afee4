"""Write-through: write a document by majority, with a rising version, and then its key, for any client's `GET`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from bson.errors import BSONError
from pymongo import ReturnDocument
from pymongo.errors import DocumentTooLarge, OperationFailure
from pymongo.read_concern import ReadConcern

from cachekeeper.connections.mongodb_errors import TOO_LARGE, database_errors, is_refused, query_refusal, refusal
from cachekeeper.errors import (
    CachekeeperError,
    CacheUnavailable,
    DamagedDocument,
    DatabaseUnavailable,
    DocumentEnded,
    InvalidValue,
    PersistedNotCached,
    Unavailable,
    ViewFailed,
)
from cachekeeper.model.sources import ABSENT, Absent
from cachekeeper.model.updates import next_version
from cachekeeper.protocol import Value, scripts
from cachekeeper.protocol.outcomes import Changed, Peeked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.collection import Collection

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.model.views import View
    from cachekeeper.protocol import Store
    from cachekeeper.settings import Settings

T = TypeVar("T")

_PAUSE_SECONDS = 0.005  # before the next look, while other saves take the lease away

# Missing or null. Not written as an equality, because an upsert would copy that into the document it creates.
_NOT_SET: Mapping[str, Any] = {"$not": {"$ne": None}}


@dataclass(frozen=True, slots=True)
class WriteThrough(Generic[T]):
    """Writes one document, and then its key.

    Attributes:
        view: the view of the document.
        part: the id, as it stands in the key.
        document_id: the id, as it stands in the document.
        collection: the collection of the document, with majority writes.
        store: the Redis that holds the key.
        settings: provides the time limits.
        read_through: fills the key under a lease, like any reader.
    """

    view: View[T]
    part: str
    document_id: object
    collection: Collection[Any]
    store: Store
    settings: Settings
    read_through: Callable[[], T | Absent]

    def save(self, fields: Mapping[str, object], computed: Mapping[str, Any], final: str | None) -> None:
        """Write the document and its key. Arguments and errors: as `Keeper.save`."""
        self._check(fields, computed)
        document = self._persist(fields, computed, final)
        problem: DamagedDocument | ViewFailed | None = None
        saved: Value | Absent = ABSENT
        try:
            saved = self.view.interpret(document)
        except (DamagedDocument, ViewFailed) as error:
            problem = error
        if saved is ABSENT and problem is None and final is not None:
            raise self._ended_meanwhile()
        try:
            if isinstance(saved, Value) and len(saved.raw) <= self.settings.value_limit_bytes:
                self._fill(saved, final)
            else:
                # Nothing to cache: the value at the key is from the previous state of the document.
                self.store.run(scripts.invalidate(self._key))
        except Unavailable as error:
            name = self.view.name
            raise PersistedNotCached(f"the {name} is saved in MongoDB, but not in Redis yet: save it again") from error
        if problem is not None:
            raise problem

    def _check(self, *given: Mapping[Any, object]) -> None:
        """Refuse names that cannot be fields, before anything is written."""
        for fields in given:
            if not isinstance(fields, Mapping):
                raise TypeError(f"fields must be a mapping from field names to values, got {type(fields).__name__}")
            for name in fields:
                if not isinstance(name, str) or not name or name.startswith("$") or "\0" in name:
                    raise InvalidValue("fields", "a field's name must be a non-empty text that does not begin with $")
                if name in {"_id", self.view.version}:
                    raise InvalidValue(
                        name, "remove it from the fields: the id is an argument, and the version rises automatically"
                    )

    @property
    def _key(self) -> str:
        return self.view.template.key(self.part)

    def _persist(self, fields: Mapping[str, object], computed: Mapping[str, Any], final: str | None) -> StoredDocument:
        """Write the document by majority. Return its new state, limited to the fields that the view reads."""
        read = self.view.query([self.document_id]).fields
        wanted: dict[str, Any] = {name: {"$literal": value} for name, value in fields.items()} | dict(computed)
        if self.view.version is not None:
            wanted[self.view.version] = next_version(self.view.version)
        found: dict[str, Any] = {"_id": self.document_id}
        if final is not None:
            found[final] = _NOT_SET
        said: Mapping[str, Any] = {}
        with database_errors(f"saving a {self.view.name}", self.settings.load_timeout_seconds):
            # Tried twice if refused. A duplicate key means: the filter did not match the existing document, so the
            # upsert tried to create a second one. Either the document has ended, or another first save created it
            # between our look and our insert; then the second attempt finds it.
            for _ in range(2):
                try:
                    document = self.collection.find_one_and_update(
                        found,
                        [{"$set": wanted}],
                        None if read is None else dict.fromkeys(("_id", *read), 1),
                        upsert=True,
                        return_document=ReturnDocument.AFTER,
                    )
                    return cast("StoredDocument", document)  # an upsert always returns one
                except DocumentTooLarge as error:
                    said = {"code": TOO_LARGE, "errmsg": str(error)}
                except (BSONError, OverflowError) as error:
                    name = type(error).__name__
                    # Raised without its cause, because that text quotes the value.
                    raise InvalidValue(
                        "fields", f"hold a value that MongoDB cannot store ({name}): convert it"
                    ) from None
                except OperationFailure as error:
                    said = {"code": error.code, **(error.details or {})}
                    if not is_refused(said):
                        if refused := query_refusal(error):
                            raise ViewFailed(
                                f"view {self.view.name}: the document was not saved, correct `computed`: {refused}"
                            ) from None
                        raise
            why = self._refused(final, said)
            raise why from why.__cause__

    def _refused(self, final: str | None, said: Mapping[str, Any]) -> CachekeeperError:
        """Return the error that says why MongoDB refused the write."""
        if final is not None:
            # A validator can reject the upsert before MongoDB finds the ended document, so look for that first. Read
            # with "local", as the upsert does: a majority may not know yet that the document has ended.
            seen = self.collection.with_options(read_concern=ReadConcern("local"))
            if seen.find_one({"_id": self.document_id, final: {"$ne": None}}) is not None:
                return DocumentEnded(f"the {self.view.name} has ended and cannot be saved: create one with a new id")
        return refusal(self.collection.name, said) or DatabaseUnavailable(
            f"MongoDB failed while saving a {self.view.name} (code {said.get('code')})"
        )

    def _fill(self, saved: Value, final: str | None) -> None:
        """Write the value to its key, so that the next plain `GET` of any client finds it."""
        key = self._key
        if saved.version is None:  # the view has none, or the field holds a number that is too large for a version
            self.store.run(scripts.invalidate(key))
        else:
            ttl_ms = round(self.view.ttl_seconds * 1000)
            changed = self.store.run(scripts.change(key, saved, ttl_ms=ttl_ms, marker_ms=self.settings.marker_ms))
            if changed is Changed.OVERWRITTEN:
                return
            if changed is Changed.ENDED:
                raise self._ended_meanwhile()
        # Either a marker was left, or a newer save came first. In both cases the key is filled under a lease, as by
        # any reader.
        deadline = time.monotonic() + self.settings.lookup_timeout_seconds
        while True:
            found = self.read_through()
            peeked = self.store.run(scripts.read_until(key))
            if peeked is Peeked.ENDED or (found is ABSENT and final is not None):
                raise self._ended_meanwhile()
            if found is ABSENT:
                return  # the document has been deleted since
            if peeked is not Peeked.MISSING:
                return
            # Another save has taken the lease away and not filled yet. Fill in its place: its data is in MongoDB.
            if time.monotonic() > deadline:
                raise CacheUnavailable(
                    f"the {self.view.name} was not cached in time: other changes, or eviction, removed it each time"
                )
            time.sleep(_PAUSE_SECONDS)

    def _ended_meanwhile(self) -> DocumentEnded:
        return DocumentEnded(
            f"the {self.view.name} ended while it was being saved: create one with a new id", meanwhile=True
        )
