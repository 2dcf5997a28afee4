"""Views, which declare what is cached, under which key, for how long, and from which source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from bson.errors import BSONError

from cachekeeper.errors import DamagedDocument, RegistrationError, Unavailable, ViewFailed
from cachekeeper.model.sources import ABSENT, Absent, Document, Find, Query
from cachekeeper.model.view_code import PASSED_ON, damaged, encoded, failed, is_of_the_document, not_awaitable, readable
from cachekeeper.model.view_kinds import Drop, Holds
from cachekeeper.protocol.scripts import Value
from cachekeeper.values.ids import IdType
from cachekeeper.values.keys import Template
from cachekeeper.values.times import to_ms
from cachekeeper.values.versions import version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cachekeeper.model.sources import StoredDocument
    from cachekeeper.values.codecs import Codec

_SHORTEST_TTL = 0.001  # seconds: Redis counts in milliseconds
_LONGEST_TTL = 10 * 366 * 86_400
T_co = TypeVar("T_co", covariant=True)


class Server(StrEnum):
    """The Redis server that a view lives on."""

    CACHE = "cache"  # may evict keys
    SECURITY = "security"  # must not evict keys


class Staleness(StrEnum):
    """Whether only this library writes a view's keys. This decides what a read may trust."""

    OURS = "ours"
    """Only this library writes. A hit is a plain `GET`; a damaged value is repaired from the database."""

    SHARED = "shared"
    """Other services write, too. A read also asks for the deadline. A damaged value is an error, and is left unchanged.
    When the view is dropped, keys without a document are kept: MongoDB cannot restore their values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View(Generic[T_co]):
    """A view with one value per document.

    Attributes:
        name: the view's name in settings, commands and counters.
        key: the key template, with `{id}`.
        ttl_seconds: how long a value lives.
        codec: how a value is written as bytes.
        loader: the source of a value.
        ids: how the id maps to `_id`; the setting `ID_TYPES` overrides it.
        version: the document field that holds the version; None for an unversioned view.
        server: the Redis server that its keys are on.
        staleness: who writes its keys.
        warm: whether the worker fills a key from MongoDB after an event left a marker there.
    """

    name: str
    key: str
    ttl_seconds: float
    codec: Codec[T_co]
    loader: Document
    ids: IdType = IdType.AUTO
    version: str | None = None
    server: Server = Server.CACHE
    staleness: Staleness = Staleness.OURS
    warm: bool = False
    template: Template = field(init=False, repr=False)
    ready_keys: ClassVar[tuple[str, ...]] = ()
    holds: ClassVar[Literal[Holds.DOCUMENT]] = Holds.DOCUMENT

    def __post_init__(self) -> None:
        _check(self.name, self.ttl_seconds)
        object.__setattr__(self, "template", Template.of(self.key, "id"))

    @property
    def collection(self) -> str:
        """Where its values come from."""
        return self.loader.collection

    @property
    def is_shared(self) -> bool:
        """Whether other services write its keys, too."""
        return self.staleness is Staleness.SHARED

    @property
    def drop(self) -> Drop:
        """How it is dropped."""
        return Drop.KEYS_OF_DOCUMENTS if self.is_shared else Drop.KEYS

    def query(self, document_ids: Sequence[object]) -> Find:
        """The query for the documents with these `_id`s."""
        loader = self.loader
        fields = dict.fromkeys((*loader.fields, *filter(None, (self.version, loader.ends))))
        wanted = document_ids[0] if len(document_ids) == 1 else {"$in": list(document_ids)}
        return Find(loader.collection, {"_id": wanted}, tuple(fields), limit=len(document_ids))

    def interpret(self, document: StoredDocument | None, now: datetime | None = None) -> Value | Absent:
        """Return the value to cache of a document. A document of None means 'not found'.

        Raises:
            DamagedDocument: the document does not hold a value that this view can cache.
            ViewFailed: the loader or the codec raised, or returned something that must be awaited.
        """
        try:
            return ABSENT if document is None else self._interpret(document, now or datetime.now(UTC))
        except (DamagedDocument, BSONError) as error:
            raise damaged(self.name, self.loader.collection, error) from None
        except ViewFailed as error:
            if is_of_the_document(error, document):
                raise damaged(self.name, self.loader.collection) from None
            raise

    def encode(self, value: object) -> bytes:
        """Encode a value. Raises DamagedDocument, ViewFailed: the codec cannot encode it."""
        return encoded(self.name, self.codec, value)

    def _interpret(self, document: StoredDocument, now: datetime) -> Value | Absent:
        ends = None
        if self.loader.ends is not None and isinstance(moment := document.get(self.loader.ends), datetime):
            if moment <= now:
                return ABSENT
            ends = to_ms(moment)
        try:
            value = self.loader.value(document)
        except PASSED_ON:
            raise
        except Exception as error:
            raise failed(self.name, "loader", error) from error
        value = not_awaitable(self.name, "loader", value)
        if value is ABSENT:
            return ABSENT
        return Value(readable(self.name, self.codec, value), version_of(document, self.version), ends)


@dataclass(frozen=True, kw_only=True, eq=False)
class TextView(Generic[T_co]):
    """A view of what a text finds: one value is made of several documents, so it has no version.

    Attributes:
        name: the view's name in settings, commands and counters.
        key: the key template, with `{text}`.
        ttl_seconds: how long a value lives.
        codec: how a value is written as bytes.
        loader: the source of a value.
        server: the Redis server that its keys are on.
    """

    name: str
    key: str
    ttl_seconds: float
    codec: Codec[T_co]
    loader: Query
    server: Server = Server.CACHE
    ids: ClassVar[None] = None
    is_shared: ClassVar[bool] = False
    drop: ClassVar[Drop] = Drop.KEYS
    holds: ClassVar[Literal[Holds.TEXT]] = Holds.TEXT
    ready_keys: ClassVar[tuple[str, ...]] = ()
    template: Template = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.name, self.ttl_seconds)
        object.__setattr__(self, "template", Template.of(self.key, "text"))

    @property
    def collection(self) -> str:
        """Where its values come from."""
        return self.loader.collection

    @property
    def filter_key(self) -> str:
        """The key of the filter of texts that may be cached. A change asks the filter before it looks for the texts."""
        return f"cachekeeper:{self.name}-texts"

    def query(self, folded: str) -> Find:
        """The query for everything that the folded text finds.

        Raises:
            ViewFailed: the loader's filter raised, or did not return a mapping. None, the result of a forgotten
                `return`, would find every document.
        """
        try:
            found: object = self.loader.filter(folded)
        except Unavailable:
            raise
        except Exception as error:
            raise failed(self.name, "loader's filter", error) from error
        found = not_awaitable(self.name, "loader's filter", found)
        if not isinstance(found, Mapping):
            raise ViewFailed(f"view {self.name}: its loader's filter must return a mapping, got {type(found).__name__}")
        return Find(self.loader.collection, found)

    def interpret(self, documents: Sequence[StoredDocument]) -> Value:
        """Return the value to cache of the documents.

        Raises:
            DamagedDocument: a document cannot be read, or does not hold a value that this view can cache.
            ViewFailed: the loader or the codec raised, or returned something that must be awaited.
        """
        try:
            return Value(readable(self.name, self.codec, self._value(documents)), None)
        except DamagedDocument as error:
            raise damaged(self.name, self.loader.collection, error) from None
        except ViewFailed as error:
            if is_of_the_document(error, documents):
                raise damaged(self.name, self.loader.collection) from None
            raise

    def _value(self, documents: Sequence[StoredDocument]) -> object:
        try:
            value = self.loader.value(documents)
        except PASSED_ON:
            raise
        except Exception as error:
            raise failed(self.name, "loader", error) from error
        return not_awaitable(self.name, "loader", value)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlocklistView:
    """A view of blocked ids, a set that only grows. A key exists until its block ends; its value does not matter.

    The *ready* key, `cachekeeper:{name}-ready`, says that Redis holds all live blocks. Only then does a missing key
    mean 'not blocked'.

    Attributes:
        name: the view's name in settings, commands and counters.
        key: the key template, with `{id}`. The id stands there exactly as given, and is the document's `_id` as text.
        collection: where the blocks are stored permanently.
        ends: the date field for when the blocked thing ends by itself; null for never.
        server: the Redis server that its keys are on.
    """

    name: str
    key: str
    collection: str
    ends: str
    server: Server = Server.SECURITY
    ids: ClassVar[None] = None
    is_shared: ClassVar[bool] = False
    drop: ClassVar[Drop] = Drop.READY
    holds: ClassVar[Literal[Holds.BLOCK]] = Holds.BLOCK
    template: Template = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.name, 1)
        if not self.ends or "." in self.ends or self.ends.startswith("$"):
            # In an update MongoDB reads a dot as a path, and a leading $ as an expression.
            raise RegistrationError(f"view {self.name}: ends must be the name of one field, without . and leading $")
        object.__setattr__(self, "template", Template.of(self.key, "id"))

    @property
    def ready_key(self) -> str:
        """The key that exists while Redis holds all live blocks."""
        return f"cachekeeper:{self.name}-ready"

    @property
    def ready_keys(self) -> tuple[str, ...]:
        """The *ready* key, and the key that must be deleted together with it."""
        return self.warming_key, self.ready_key

    @property
    def warming_key(self) -> str:
        """The key with the nonce of the full pass that is running."""
        return f"cachekeeper:{self.name}-warming"


AnyView = View[Any] | TextView[Any] | BlocklistView
"""Every kind of view."""


def _check(name: str, ttl_seconds: float) -> None:
    if not name.isidentifier():
        raise RegistrationError(f"view name {name!r}: must be an identifier, such as order_status")
    if not _SHORTEST_TTL <= ttl_seconds <= _LONGEST_TTL:  # this refuses NaN, too
        raise RegistrationError(f"view {name}: ttl_seconds must be from {_SHORTEST_TTL} to {_LONGEST_TTL}")
